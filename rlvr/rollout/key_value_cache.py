"""A key-value cache that allocates room ahead.

transformers' cache grows by concatenation: each new token copies all keys and values of the batch, so that a completion
of T tokens copies O(T^2) numbers. Here a layer's tensors are allocated with spare room, and a new token is written
into it.
"""

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

_ROOM = 64  # tokens, at least
_ROOM_SHARE = 0.25  # of the tokens held so far


def key_value_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache; layers that do not keep every token (sliding windows, states) keep transformers' classes."""
    cache = DynamicCache(config=config)
    cache.layers = [LayerWithRoom() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_state_alone(cache: DynamicCache) -> bool:
    """Whether its model is purely recurrent: no layer keeps keys and values."""
    is_recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    return is_recurrent and not any(isinstance(layer, DynamicLayer) for layer in cache.layers)


def select_rows(cache: DynamicCache, indices: Tensor) -> None:
    """Replaces the cache's rows by these, in this order, including states of recurrent layers.

    `Cache.batch_select_indices` does not handle such states.
    """
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for states in (layer.conv_states, layer.recurrent_states):
                for key, state in states.items():
                    if state is not None:
                        states[key] = state.index_select(0, indices)
        if isinstance(layer, DynamicLayer):
            layer.batch_select_indices(indices)


class LayerWithRoom(DynamicLayer):
    """`keys` and `values` are the filled parts of larger tensors, [rows, heads, tokens, dim]."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends tokens; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        stores = self._stores
        if stores is None or stores[0].shape[-2] < stop:
            stores = self._with_room(key_states, value_states, start=start, stop=stop)
        for store, states in zip(stores, (key_states, value_states), strict=True):
            store[:, :, start:stop] = states
        self._show(stores, stop)
        return self.keys, self.values  # type: ignore[return-value] # set by now

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows, with their spare room."""
        if self._stores is not None:
            length = self.get_seq_length()
            keys, values = (store.index_select(0, indices) for store in self._stores)
            self._show((keys, values), length)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        if self._stores is not None:
            length = self.get_seq_length()
            keys, values = (store.repeat_interleave(repeats, dim=0) for store in self._stores)
            self._show((keys, values), length)

    def reset(self) -> None:
        """Forgets everything."""
        self._stores = None
        super().reset()

    def _with_room(self, key_states: Tensor, value_states: Tensor, *, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Allocates stores for at least `stop` tokens and copies the present ones."""
        capacity = stop + max(_ROOM, int(_ROOM_SHARE * stop))
        made: list[Tensor] = []
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            rows, heads, _, dim = states.shape
            store = states.new_empty((rows, heads, capacity, dim))
            if start and held is not None:
                store[:, :, :start] = held
            made.append(store)
        return made[0], made[1]

    def _show(self, stores: tuple[Tensor, Tensor], length: int) -> None:
        self._stores = stores
        self.keys, self.values = (store[:, :, :length] for store in stores)
