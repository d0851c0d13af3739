"""Fit the weights by which the lexical scan orders its hits.

repoagent train bundled scent --trees DIR [--every 2]

Listwise softmax over the shortlist of each question of the training repositories:
L = -mean log sum_{gold} softmax(w . f), with a small L2 penalty. Prints the tuple to be put into
``repoagent/scent.py`` and the recall before and after, on training and validation repositories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from repoagent.repo import Repo
from repoagent.scent import FILE_FEATURES, RANK_WEIGHTS, Scent

Candidates = tuple[list[tuple[float, ...]], list[bool]]


def candidates(rows: list[dict[str, Any]], trees: Path) -> list[Candidates]:
    """Features (with the first-stage score last) and labels of every question's shortlist."""
    found = []
    repo, name = None, ""
    for row in rows:
        if row["repo"] != name or repo is None:
            name = row["repo"]
            repo = Repo.open(trees / name.replace("/", "__"))
        scent = Scent(repo, row["question"])
        hits = scent.hits(80)
        found.append(
            ([(*scent.features(h.path), h.score) for h in hits], [h.path in row["gold"] for h in hits])
        )
    return found


def fit(data: list[Candidates], steps: int = 300, penalty: float = 1e-3) -> list[float]:
    """Weights that minimise the listwise loss."""
    rows = [(torch.tensor(f), torch.tensor(g)) for f, g in data if any(g)]
    weights = torch.zeros(len(FILE_FEATURES) + 1, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(steps):
        losses = [-(f @ weights).log_softmax(0)[g].logsumexp(0) for f, g in rows]
        loss = torch.stack(losses).mean() + penalty * weights.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [round(float(w), 3) for w in weights.detach()]


def recall(data: list[Candidates], weights: list[float] | tuple[float, ...]) -> dict[int, float]:
    """Share of questions with a gold file among the first k."""
    ranks = []
    for features, gold in data:
        order = sorted(
            range(len(gold)),
            key=lambda i: -sum(w * f for w, f in zip(weights, features[i], strict=True)),
        )
        ranks.append(next((r for r, i in enumerate(order) if gold[i]), 999))
    return {k: round(sum(r < k for r in ranks) / max(1, len(ranks)), 3) for k in (1, 3, 5, 10, 24, 32, 48)}


def run(train: list[dict[str, Any]], validation: list[dict[str, Any]], trees: Path) -> list[float]:
    """Fit on ``train``, print weights and recalls."""
    fitting, held_out = candidates(train, trees), candidates(validation, trees)
    weights = fit(fitting)
    for name, data in (("train", fitting), ("validation", held_out)):
        print(name, "before", recall(data, RANK_WEIGHTS), "after", recall(data, weights))
    print(tuple(weights))
    return weights
