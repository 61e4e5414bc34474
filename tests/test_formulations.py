"""What every formulation has in common: it is found by name and offers a native model with a way in and out."""

import inspect

import pytest

from hexsolve_models import formulations


@pytest.mark.parametrize("name", formulations.names())
def test_a_module_names_its_back_end_and_builds_with_defaults(name):
    module = formulations.load(name)
    assert module.NATIVE in ("cpsat", "pulp")
    parameters = list(inspect.signature(module.build).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["problem", "incumbent"]
    assert all(parameter.default is not parameter.empty for parameter in parameters[1:])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"formulation = 'simplex': expected one of .*cpsat_full"):
        formulations.load("simplex")
