"""`proof`: derivations in propositional logic, checked step by step."""
