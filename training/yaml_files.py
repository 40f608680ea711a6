"""YAML, read safely and strictly: no tag makes a Python object, and no key comes twice."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.errors import InputError, first_line


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice: PyYAML keeps the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} comes twice", node.value[place][0].start_mark
                )
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(file: Path) -> Any:
    """What the file holds.

    Raises:
        InputError: it cannot be read, is not YAML, or has a key twice: `file:line: what is wrong`.
    """
    try:
        # A subclass of SafeLoader: no tag makes a Python object.
        return yaml.load(file.read_text(encoding="utf-8"), _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f"{error.problem_mark.line + 1}: " if error.problem_mark else " "
        raise InputError(f"{file}:{line}not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
