"""LightGCN (He et al., SIGIR'20): vectors averaged over the graph of who liked what, layer by layer, no weights.

Shapes:  M = U + V nodes, users first  E edges
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes

LAYERS = 2


class LightGCN(Behaviour):
    by_history = False

    edges_2E: Tensor

    def __init__(self, sizes: Sizes, edges_2E: Tensor | None = None) -> None:
        """edges: rows of users over rows of items; zeros to be loaded over where absent."""
        super().__init__(sizes)
        self.nodes = nn.Embedding(sizes.users + sizes.items + 2, sizes.width)
        nn.init.normal_(self.nodes.weight, std=0.1)
        self.register_buffer(
            "edges_2E", torch.zeros(2, sizes.edges, dtype=torch.long) if edges_2E is None else edges_2E
        )
        self._settled: tuple[int, Tensor] = (-1, torch.empty(0))

    def vectors(self) -> Tensor:
        """M x D: the mean of all layers (equations 7 and 8). Without gradient kept for as long as the weights stay."""
        version, settled_MD = self._settled
        if version == self.nodes.weight._version and not torch.is_grad_enabled():
            return settled_MD
        graph_MM = self._normalised()
        layer_MD = mean_MD = self.nodes.weight
        for _ in range(LAYERS):
            layer_MD = torch.sparse.mm(graph_MM, layer_MD)
            mean_MD = mean_MD + layer_MD
        mean_MD = mean_MD / (LAYERS + 1)
        if not torch.is_grad_enabled():
            self._settled = self.nodes.weight._version, mean_MD
        return mean_MD

    def _normalised(self) -> Tensor:
        """1 / sqrt(degree of user x degree of item) on each edge, both ways."""
        nodes = self.nodes.num_embeddings
        users_E, items_E = self.edges_2E[0], self.edges_2E[1] + self.sizes.users + 1
        both_2E = torch.stack([torch.cat([users_E, items_E]), torch.cat([items_E, users_E])])
        degree_M = torch.bincount(both_2E[0], minlength=nodes).clamp(min=1).float()
        weight_E = (degree_M[both_2E[0]] * degree_M[both_2E[1]]).rsqrt()
        with torch.sparse.check_sparse_tensor_invariants(False):
            return torch.sparse_coo_tensor(both_2E, weight_E, (nodes, nodes))

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.vectors()[items_N + self.sizes.users + 1]

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        return self.vectors()[users_B]
