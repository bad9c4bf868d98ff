"""What to run, in claw's words and in core's: images, resources, ports, mounts, restarts. Wire units end here.

MB are 2^20 bytes. What the wire cannot say of a container is refused by name, so that it runs elsewhere.

Source: claw-proto API Reference, "Workload Specification" and "Validation".
"""

from __future__ import annotations

from typing import assert_never

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.validation import validate_original_spec
from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.orders import StartWorkload
from arcray.core.quantity import CPU_MILLI, MIB
from arcray.core.resources import Demand
from arcray.core.workload import Container, PortMapping, RestartPolicy, RestartRule, VolumeMount

__all__ = ["container_of", "demand_of", "original_spec_of", "restart_of", "spec_of"]


def container_of(spec: claw.WorkloadSpec) -> Container:
    """Returns the container that a specification asks for.

    Raises:
        InvalidArgumentError: it breaks a rule of the document; names the field.
        UnsupportedError: it mounts what is no directory or file of the host.
    """
    claw.validate_workload_spec(spec)
    for number, volume in enumerate(spec.volumes):
        if volume.mount_type is not claw.MountType.BIND:
            raise UnsupportedError(
                "must be bind: only what the host has is mounted", field=f"volumes.{number}.mount_type"
            )
    container = Container(
        image=spec.image,
        command=spec.command or (),
        args=spec.args or (),
        env=spec.env,
        ports=tuple(PortMapping(container_port=port) for port in spec.ports),
        volumes=tuple(
            VolumeMount(source=volume.source, target=volume.target, read_only=volume.read_only)
            for volume in spec.volumes
        ),
    )
    _check_no_nul(container)
    return container


def _check_no_nul(container: Container) -> None:
    # No argument, variable or path of a process can hold one, and databases do not take it.
    texts = {
        "image": [container.image],
        "command": container.command,
        "args": container.args,
        "env": [value for _, value in container.env],
        "volumes": [path for volume in container.volumes for path in (volume.source, volume.target)],
    }
    for field, found in texts.items():
        if any("\0" in text for text in found):
            raise InvalidArgumentError("must not have a NUL character", field=field)


def demand_of(spec: claw.WorkloadSpec) -> Demand:
    """Returns what a specification asks of its node; what it does not name, it does not ask for.

    Raises:
        InvalidArgumentError: it asks for memory of GPUs and for no GPU.
    """
    if spec.gpu_memory_mb and not spec.gpu_count:
        raise InvalidArgumentError("needs gpu_count of at least 1", field="gpu_memory_mb")
    return Demand(
        cpu_milli=spec.cpu_millicores or 0,
        memory_bytes=(spec.memory_mb or 0) * MIB,
        gpus=spec.gpu_count,
        gpu_memory_bytes=spec.gpu_memory_mb * MIB if spec.gpu_memory_mb else None,
    )


def restart_of(policy: claw.RestartPolicy) -> RestartPolicy:
    """Returns when work is started again, in core's words."""
    match policy:
        case claw.No():
            return RestartPolicy(rule=RestartRule.NEVER)
        case claw.Always() | claw.UnlessStopped():  # core's own rule leaves alone what somebody has stopped
            return RestartPolicy(rule=RestartRule.ALWAYS, max_restarts=None)
        case claw.OnFailure():
            return RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=policy.max_retries or None)
        case _:
            assert_never(policy)


def spec_of(order: StartWorkload) -> claw.WorkloadSpec:
    """Returns what a node is asked to run.

    It is never asked to start anything again: restarts are the pool's, and each is another attempt, perhaps elsewhere.

    Raises:
        UnsupportedError: it is no container, or wants what the wire or the document's rules do not allow.
    """
    container, demand = _container(order), order.demand
    for port in container.ports:
        if port.host_port not in (None, port.container_port):
            raise UnsupportedError("a claw node cannot be told which port of the host to publish", field="ports")
    spec = claw.WorkloadSpec(
        image=container.image,
        command=container.command or None,
        args=container.args or None,
        env=container.env,
        gpu_count=demand.gpus,
        gpu_memory_mb=None if demand.gpu_memory_bytes is None else _mib(demand.gpu_memory_bytes),
        cpu_millicores=demand.cpu_milli or None,
        memory_mb=_mib(demand.memory_bytes) or None,
        ports=tuple(port.container_port for port in container.ports),
        volumes=tuple(
            claw.VolumeMount(source=volume.source, target=volume.target, read_only=volume.read_only)
            for volume in container.volumes
        ),
    )
    try:
        claw.validate_workload_spec(spec)
    except claw.ValidationError as error:
        raise UnsupportedError(f"a claw node takes none that {error.message}", field=error.field) from error
    return spec


def original_spec_of(order: StartWorkload) -> original.WorkloadSpec:
    """Returns what a node of the first implementation is asked to run.

    Its one list is the command with its arguments, and it has whole cores and whole GPUs.

    Raises:
        UnsupportedError: it is no container, or wants what that dialect does not have.
    """
    container, demand = _container(order), order.demand
    for field, wanted in (
        ("ports", container.ports),
        ("volumes", container.volumes),
        ("gpu_memory_mb", demand.gpu_memory_bytes),
    ):
        if wanted:
            raise UnsupportedError("this node has no word for it", field=field)
    spec = original.WorkloadSpec(
        image=container.image,
        command=(*container.command, *container.args),
        env=tuple(dict(container.env).items()),
        gpu_count=demand.gpus,
        memory_mb=_mib(demand.memory_bytes) or original.WorkloadSpec(image="").memory_mb,
        cpu_cores=max(1, -(-demand.cpu_milli // CPU_MILLI)),
    )
    try:
        validate_original_spec(spec)
    except claw.ValidationError as error:
        raise UnsupportedError(f"this node takes none that {error.message}", field=error.field) from error
    return spec


def _container(order: StartWorkload) -> Container:
    if not isinstance(order.payload, Container):
        raise UnsupportedError("a claw node runs containers alone", field="payload")
    return order.payload


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)  # what is asked for is given, to the MiB above
