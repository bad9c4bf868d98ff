"""Hands a task to a HiveMind pool and fetches what it left: ``python client.py [HOST:PORT [USER]]``.

Needs the package ``grpcio``, and the protocol's contract compiled beside it, as others do::

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -Inode_pool=protos --python_out=. --grpc_python_out=. node_pool/nodepool.proto
"""

from __future__ import annotations

import io
import secrets
import sys
import time
import zipfile

import grpc
from node_pool import nodepool_pb2 as pool
from node_pool import nodepool_pb2_grpc as services

PROGRAM = """
import os, pathlib
print("task", os.environ["TASK_ID"])
pathlib.Path(os.environ.get("ARCRAY_RESULT_DIR", ""), "answer.txt").write_text(str(6 * 7))
"""
TIMEOUT_S = 30


def main() -> None:
    """Registers, logs in, uploads, polls, and unpacks the result."""
    address = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
    user = sys.argv[2] if len(sys.argv) > 2 else f"user-{secrets.token_hex(3)}"
    password = secrets.token_urlsafe()
    with grpc.insecure_channel(address) as channel:
        users, tasks = services.UserServiceStub(channel), services.MasterNodeServiceStub(channel)
        registered = users.Register(pool.RegisterRequest(username=user, password=password), timeout=TIMEOUT_S)
        if not registered.success:
            sys.exit(f"not registered: {registered.message}")
        token = users.Login(pool.LoginRequest(username=user, password=password), timeout=TIMEOUT_S).token
        with_token = [("authorization", f"Bearer {token}")]  # of every call from now on

        task_id = f"{user}-1"
        request = pool.UploadTaskRequest(task_id=task_id, task_data=zipped(PROGRAM), user_id=user)
        uploaded = tasks.UploadTask(request, metadata=with_token, timeout=TIMEOUT_S)
        if not uploaded.success:
            sys.exit(f"not uploaded: {uploaded.message}")

        poll = pool.PollTaskStatusRequest(task_id=task_id)
        while (polled := tasks.PollTaskStatus(poll, metadata=with_token, timeout=TIMEOUT_S)).status in (
            "PENDING",
            "RUNNING",
        ):
            time.sleep(0.2)
        print(polled.status, *polled.output, sep="\n")
        result = tasks.GetTaskResult(pool.GetTaskResultRequest(task_id=task_id), metadata=with_token, timeout=TIMEOUT_S)
        with zipfile.ZipFile(io.BytesIO(result.result_data)) as files:
            for name in files.namelist():
                print(name, files.read(name).decode())


def zipped(program: str) -> bytes:
    """Returns a task: a zip whose ``main.py`` a pool runs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", program)
    return content.getvalue()


if __name__ == "__main__":
    main()
