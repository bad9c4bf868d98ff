"""Settings of the Resource Pool facade. Part of the tree in ``config``."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["AdvertisementSettings", "DeviceSettings", "PoolProgram", "PoolSettings"]


_LABEL_BYTES: Final = 63  # of a name in DNS


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PoolProgram(_Section):
    """What a task's ``data.command`` runs: an image, or a Python function.

    Args:
        image: container image; "" where it is a function.
        args: arguments of the image, or of the function after the input.
        entry_point: ``module:function`` of one importable module, which goes to the node by itself and so may import
            the standard library alone. The function takes the input, and its text is the output.
        input: where the task's input goes: to standard input, or as the last argument. An image takes an argument, a
            function without a word its standard input.
    """

    image: str = ""
    args: tuple[str, ...] = ()
    entry_point: str = ""
    input: Literal["stdin", "argument"] | None = None

    @model_validator(mode="after")
    def _it_is_one_of_both(self) -> PoolProgram:
        if bool(self.image) == bool(self.entry_point):
            raise ValueError("wants an image or an entry_point, and not both")
        module, _, function = self.entry_point.partition(":")
        names = (*module.split("."), function)
        if self.entry_point and not all(name.isidentifier() for name in names):
            raise ValueError(f"entry_point {self.entry_point!r} is no module:function")
        if self.image and self.input == "stdin":
            raise ValueError("an image takes its input as an argument")
        return self


class AdvertisementSettings(_Section):
    """Telling the local network of the pool, by mDNS.

    Args:
        enabled: whether to.
        name: of the instance.
        service: type of the service.
        port: of the listener that is told of.
        address: IPv4 address that is told of; "" is the gateway's own, or that of the route outwards.
    """

    enabled: bool = False
    name: str = Field(default="Resource Pooling Network", min_length=1)
    service: str = Field(default="_resourcepool._tcp.local.", pattern=r"^_[A-Za-z0-9-]{1,15}\._(tcp|udp)\.local\.$")
    port: int = Field(default=3000, ge=1, le=65_535)
    address: str = ""

    @field_validator("name")
    @classmethod
    def _it_is_a_label(cls, name: str) -> str:
        if len(name.encode()) > _LABEL_BYTES:
            raise ValueError(f"must have at most {_LABEL_BYTES} bytes")
        return name

    @field_validator("address")
    @classmethod
    def _it_is_an_address(cls, address: str) -> str:
        return str(IPv4Address(address)) if address else ""


class DeviceSettings(_Section):
    """This machine as a device of a pool: ``arcray agent --protocol pool``.

    Args:
        heartbeat_s: between two signs of life; servers want one every 30 s.
        update_s: shortest time between two words of what this machine has; it is told where it has changed.
        output_bytes: of what a task wrote that are told at its end: of a success the first, of a failure the last.
        max_message_bytes: largest message that is read of the server; a larger one ends the connection.
    """

    heartbeat_s: float = Field(default=5.0, gt=0)
    update_s: float = Field(default=2.0, gt=0)
    output_bytes: int = Field(default=2**20, ge=1, le=4 * 2**20)
    max_message_bytes: int = Field(default=64 * 2**20, ge=2**16)


class PoolSettings(_Section):
    """Resource Pool: devices over WebSocket, what they have over REST.

    Args:
        requests_per_minute: REST requests that one address may make; 0 is no limit.
        max_devices: registered with one gateway process; another one is closed with 1008.
        heartbeat_s: a device that is silent for so long leaves the list.
        sweep_s: between two looks for such devices.
        close_silent: closes the socket of such a device with 1008. Without it, it comes back when it is heard.
        strict: closes what sends binary frames that are no JSON with 1003, and repeated malformed text with 1002.
        show_cluster_nodes: whether lists and allocations have the nodes of other protocols.
        strategy: how an allocation is spread: ``greedy`` takes all that the first devices have, ``even`` divides it.
        allocation_ttl_s: how long an allocation is held.
        max_cpu_allocation, max_memory_allocation, max_storage_allocation: percent of a device that may be held.
        gpu_sharing: whether GPUs are allocated at all.
        max_sockets: WebSockets of one gateway process.
        socket_queue: frames that wait for one slow socket; a longer queue closes it with 1008.
        socket_queue_characters: of those frames together that are for it alone; more close it likewise.
        max_tasks: tasks of one socket at a time; more are answered at once that they have no place.
        max_allocations: held by one socket at a time.
        task_timeout_s: longest that a task may take, from its submission.
        max_result_bytes: longest output of a task that is given out; of a longer one its beginning. The last line of a
            failure is looked for among as many bytes of its end.
        programs: what tasks may run, by the name that ``data.command`` has.
        advertise: telling the local network of it.
        device: a machine that joins one.
    """

    requests_per_minute: int = Field(default=100, ge=0)
    max_devices: int = Field(default=100, ge=1)
    heartbeat_s: float = Field(default=30.0, gt=0)
    sweep_s: float = Field(default=2.0, gt=0)
    close_silent: bool = False
    strict: bool = False
    show_cluster_nodes: bool = True
    strategy: Literal["greedy", "even"] = "greedy"
    allocation_ttl_s: float = Field(default=300.0, gt=0)
    max_cpu_allocation: float = Field(default=80.0, ge=0, le=100)
    max_memory_allocation: float = Field(default=80.0, ge=0, le=100)
    max_storage_allocation: float = Field(default=50.0, ge=0, le=100)
    gpu_sharing: bool = True
    max_sockets: int = Field(default=1_000, ge=1)
    socket_queue: int = Field(default=4_096, ge=16)
    socket_queue_characters: int = Field(default=64 * 2**20, ge=2**16)
    max_tasks: int = Field(default=64, ge=1)
    max_allocations: int = Field(default=64, ge=1)
    task_timeout_s: float = Field(default=300.0, gt=0)
    max_result_bytes: int = Field(default=2**20, ge=1)
    programs: dict[str, PoolProgram] = Field(default_factory=dict)
    advertise: AdvertisementSettings = AdvertisementSettings()
    device: DeviceSettings = DeviceSettings()
