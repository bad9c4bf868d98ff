"""Whose a model is, and which of its copies count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arcray.core.commands import DrainNode, RegisterModel, RemoveModel, SubmitWorkload
from arcray.core.errors import ConflictError, InvalidArgumentError, PermissionDeniedError
from arcray.core.ids import AccountId, ModelId
from arcray.core.model import Model
from arcray.core.queries import GetModel, ListModels, ModelPage, ModelView
from arcray.core.workload import ModelServer, Origin, Phase, WorkloadSpec
from arcray.testing.builders import a_model, a_node, a_workload, node_id
from arcray.testing.world import World

ANA, BO = AccountId("ana"), AccountId("bo")
OURS = a_model(owner=ANA)


def a_copy(number: int, account: AccountId = ANA, model: Model = OURS) -> WorkloadSpec:
    return replace(a_workload(number, ModelServer(model=model)), origin=Origin(facade="rest", account=account))


def seen(world: World) -> ModelView:
    view = world.cluster.answer(GetModel(model_id=OURS.id), world.now)
    assert isinstance(view, ModelView)
    return view


def test_model_belongs_to_who_registered_it_first(world: World) -> None:
    world.handle(RegisterModel(model=OURS))
    assert world.handle(RegisterModel(model=replace(OURS, owner=BO))).events == ()
    assert seen(world).model.owner == ANA
    with pytest.raises(PermissionDeniedError) as refused:
        world.handle(RemoveModel(model_id=OURS.id, account=BO))
    assert refused.value.field == "name"
    assert len(world.handle(RemoveModel(model_id=OURS.id, account=ANA)).events) == 1


@pytest.mark.parametrize("name", [".", "..", "a/../b", "a/.", "../a", "a//b", "/a", "a/"])
def test_a_name_that_no_path_can_end_in_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        world.handle(RegisterModel(model=replace(OURS, id=ModelId(name))))
    assert refused.value.field == "name"


@pytest.mark.parametrize("name", ["...", "a..b", "org/llama-3.1:8b", ".a/b."])
def test_a_name_with_dots_and_slashes_is_taken(world: World, name: str) -> None:
    assert len(world.handle(RegisterModel(model=replace(OURS, id=ModelId(name)))).events) == 1


def test_model_without_an_owner_is_forgotten_by_operators_only(world: World) -> None:
    world.handle(RegisterModel(model=a_model()))  # of before models had owners
    with pytest.raises(PermissionDeniedError):
        world.handle(RemoveModel(model_id=OURS.id, account=ANA))
    assert len(world.handle(RemoveModel(model_id=OURS.id)).events) == 1


def test_model_with_a_copy_of_another_account_is_forgotten_by_operators_only(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=OURS))
    world.submit(a_copy(1, BO))
    with pytest.raises(PermissionDeniedError):
        world.handle(RemoveModel(model_id=OURS.id, account=ANA))
    world.handle(RemoveModel(model_id=OURS.id))
    assert world.workload(a_copy(1).id).phase is Phase.STOPPING


def test_copy_beyond_the_number_wanted_is_refused_and_the_same_copy_again_is_not(world: World) -> None:
    world.handle(RegisterModel(model=OURS))
    first = SubmitWorkload(spec=a_copy(1), copies=1)
    assert world.handle(first).events
    with pytest.raises(ConflictError) as refused:
        world.handle(SubmitWorkload(spec=a_copy(2), copies=1))
    assert refused.value.field == "replicas"
    assert world.handle(first).events == ()
    assert world.handle(SubmitWorkload(spec=a_copy(2), copies=2)).events


def test_copy_that_was_told_to_stop_is_shown_and_makes_room_for_another(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=OURS))
    world.submit(a_copy(1))
    world.stop(a_copy(1).id)
    assert (len(seen(world).servers), seen(world).lasting) == (1, 0)
    assert world.handle(SubmitWorkload(spec=a_copy(2), copies=1)).events
    world.report(world.workload(a_copy(1).id), Phase.STOPPED)
    assert [server.spec.id for server in seen(world).servers] == [a_copy(2).id]


def test_copy_and_the_one_that_replaces_it_are_one(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
    world.handle(RegisterModel(model=OURS))
    world.submit(a_copy(1))
    copy = world.workload(a_copy(1).id)
    world.report(copy, Phase.RUNNING)
    assert copy.node_id is not None
    world.handle(DrainNode(node_id=copy.node_id))
    assert len(seen(world).servers) == 2
    assert seen(world).lasting == 1
    world.run_round()
    world.report(world.replacement(copy), Phase.RUNNING)
    world.report(copy, Phase.STOPPED)
    assert (len(seen(world).servers), seen(world).lasting) == (1, 1)


def test_list_of_models_names_the_nodes_of_each(world: World) -> None:
    world.attach(a_node(1))
    world.handle(RegisterModel(model=OURS))
    world.handle(RegisterModel(model=a_model("quiet")))
    world.load(node_id(1))
    page = world.cluster.answer(ListModels(), world.now)
    assert isinstance(page, ModelPage)
    assert [(view.model.id, view.ready_on) for view in page.models] == [("echo", (node_id(1),)), ("quiet", ())]
