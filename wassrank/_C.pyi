from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    cuda_architectures: list[str]
    cpu_instruction_sets: list[str]
    cpu_instruction_set_in_use: str

def build_info() -> BuildInfo: ...
