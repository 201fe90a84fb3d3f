import pytest

from cluster.hardware import (
    ANY_DEVICE,
    DeviceRequest,
    _visible,
    choose_devices,
    detect_devices,
    limited,
    platform_identity,
)
from research.errors import UserError
from research.gpu_memory import GIB
from tests.cluster.farm_samples import CPU, gpu


def keys(devices):
    return [device.key for device in devices]


def test_the_machine_has_a_cpu():
    cpu = detect_devices()[-1]
    assert (cpu.kind, cpu.torch_device) == ("cpu", "cpu")
    assert cpu.threads >= 1
    assert cpu.memory_bytes >= cpu.free_bytes > 0


def test_all_gpus_are_the_default_and_the_cpu_where_there_is_none():
    assert keys(choose_devices(ANY_DEVICE, [gpu(0), gpu(1), CPU])) == ["cuda:0", "cuda:1"]
    assert keys(choose_devices(ANY_DEVICE, [CPU])) == ["cpu"]


def test_devices_are_named_by_number_or_kind_and_share_the_threads():
    found = [gpu(0), gpu(1), gpu(2), CPU]
    chosen = choose_devices(DeviceRequest.parse("0, 2"), found)
    assert keys(chosen) == ["cuda:0", "cuda:2"]
    assert {device.threads for device in chosen} == {1}
    assert {device.torch_device for device in chosen} == {"cuda:0"}
    assert keys(choose_devices(DeviceRequest.parse("cpu"), found)) == ["cpu"]
    assert keys(choose_devices(DeviceRequest.parse("cuda"), found)) == ["cuda:0", "cuda:1", "cuda:2"]
    assert keys(choose_devices(DeviceRequest.parse("2,0"), found)) == ["cuda:2", "cuda:0"]


@pytest.mark.parametrize("text", ["7", "0,7", "mps"])
def test_a_device_that_is_not_there_says_what_there_is(text):
    with pytest.raises(UserError, match=f"--devices {text} .*H100.*Some CPU"):
        choose_devices(DeviceRequest.parse(text), [gpu(0), gpu(1), CPU])


@pytest.mark.parametrize("text", ["gpu", "", "0,,1", "0,cpu", "-1", "0,0", "cuda:1,1"])
def test_a_request_that_cannot_be_read_names_the_option(text):
    with pytest.raises(UserError, match="--devices"):
        DeviceRequest.parse(text)


def test_a_request_is_parsed_once_and_written_as_it_was_given():
    assert DeviceRequest.parse("0, cuda:2") == DeviceRequest(kind="cuda", gpus=(0, 2))
    assert DeviceRequest.parse("cuda") == DeviceRequest(kind="cuda") != ANY_DEVICE
    for text in ("0,2", "cuda", "mps", "cpu"):
        assert str(DeviceRequest.parse(text)) == text
    assert str(ANY_DEVICE) == ""


def test_a_platform_is_one_readable_line():
    assert platform_identity(gpu()) == "NVIDIA H100 80GB HBM3, 80 GB, 700 W"
    assert platform_identity(gpu(power_limit_watts=None)) == "NVIDIA H100 80GB HBM3, 80 GB"
    assert platform_identity(CPU) == "Some CPU, 2 threads"


def test_a_limit_of_memory_is_part_of_the_platform():
    device = limited(gpu(), 24 * GIB)
    assert platform_identity(device) == "NVIDIA H100 80GB HBM3, 24 GB, 700 W"
    assert platform_identity(limited(gpu(), int(7.5 * GIB))) == "NVIDIA H100 80GB HBM3, 7.5 GB, 700 W"
    assert (device.memory_bytes, device.free_bytes, device.gpu_memory_bytes) == (24 * GIB,) * 3
    assert limited(gpu(free_bytes=10 * GIB), 24 * GIB).free_bytes == 10 * GIB
    for same in (gpu(), CPU):
        assert limited(same, None) is limited(same, 10**12) is same and same.gpu_memory_bytes is None


def test_visible_devices_are_respected():
    gpus = [gpu(0), gpu(1), gpu(2)]
    assert keys(_visible(gpus, "2,0")) == ["cuda:2", "cuda:0"]
    assert keys(_visible(gpus, "GPU-1a")) == ["cuda:1"]
    assert _visible(gpus, "") == []
    assert keys(_visible(gpus, "0,-1,1")) == ["cuda:0"]
