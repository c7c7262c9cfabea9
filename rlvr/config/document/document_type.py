"""What a YAML file describes, as error messages say it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentType:
    """A type of file.

    noun: its name with the article. needs: the keys without which it is useless. merge_keys: what to use instead of
    YAML's merge keys. knows_peers: whether an unknown key may be another trainer's name for one of ours.
    """

    noun: str
    needs: str
    merge_keys: str
    knows_peers: bool = False

    @property
    def definite(self) -> str:
        """The name with the definite article.

        >>> INVENTORY.definite
        'the inventory'
        """
        return f"the {self.noun.partition(' ')[2]}"


RECIPE = DocumentType(noun="a recipe", needs="name, model and data", merge_keys="use `extends`", knows_peers=True)
INVENTORY = DocumentType(noun="an inventory", needs="shared and hosts", merge_keys="write the keys out")
OF_TRAINER = DocumentType(noun="a configuration", needs="keys with values", merge_keys="write the keys out")
