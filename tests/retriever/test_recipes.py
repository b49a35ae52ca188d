"""A run is a named recipe, and a departure from it is checked before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retriever.recipes import RECIPES, configure, for_dataset
from shared.errors import BadInput


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_overrides_is_the_recipe(name: str) -> None:
    assert configure(name, {}) == RECIPES[name]()


def test_an_override_takes_the_type_of_its_field() -> None:
    config = configure("movielens", {"epochs": "3", "dropout": "0.25"})
    assert config == replace(RECIPES["movielens"](), epochs=3, dropout=0.25)


def test_an_unknown_recipe_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BadInput, match=r"'netflix' is unknown.*default, movielens"):
        configure("netflix", {})


def test_an_unknown_field_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BadInput, match=r"heads=4: no such field.*learning_rate"):
        configure("default", {"heads": "4"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "many"),
        ("epochs", "2.5"),
        ("epochs", "0"),
        ("batch", "0"),
        ("window", "-1"),
        ("width", "0"),
        ("state", "0"),
        ("blocks", "0"),
        ("validate_every", "0"),
        ("patience", "0"),
        ("dropout", "1.5"),
        ("attention_dropout", "-0.1"),
        ("dropout", "nan"),
        ("learning_rate", "0"),
        ("learning_rate", "inf"),
        ("weight_decay", "-1"),
        ("clip", "0"),
        ("seed", "-1"),
        ("seed", ""),
    ],
)
def test_a_value_that_cannot_train_is_refused_by_name(field: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{field}={value}"):
        configure("default", {field: value})


@pytest.mark.parametrize("dataset", ["ml-100k", "ml-latest-small", "amazon", "table", "anything"])
def test_every_dataset_has_a_recipe(dataset: str) -> None:
    assert for_dataset(dataset) in RECIPES
