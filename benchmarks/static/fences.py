"""Find the products of a compiled kernel that read shared memory without the proxy fence that PTX asks for.

wgmma reads shared memory through the async proxy. Whatever wrote it through the generic one, threads out of
registers or cp.async, needs a fence.proxy.async in between. Read from Triton's GPU dialect, over all paths:
what may be written and not fenced when a product is reached. From 3.7.1 on Triton adds fences behind this
dialect, too, so that what is found here is true of earlier versions only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_RESULT = re.compile(r"(%[\w#]+)(?::\d+)? = (.*)")
_WRITES = re.compile(r"ttg\.(local_store|async_copy_global_to_local) %[\w#]+, (%[\w#]+)")
_VIEW = re.compile(r"ttg\.memdesc_\w+ (%[\w#]+)")
_PRODUCT = re.compile(r"ttng\.warp_group_dot (%[\w#]+), (%[\w#]+),.* : (\S.*?) \* (\S.*?) -> ")


@dataclass
class _Loop:
    """A loop, or the branches of a condition."""

    repeated: bool
    regions: list[list["str | _Loop"]] = field(default_factory=list)


def unfenced(dialect: str) -> list[str]:
    """Products on wgmma that may read what was written since the last fence, each by its name there."""
    lines = iter([re.sub(r" loc\(.*$", "", line).strip() for line in dialect.splitlines()])
    walk = _Walk()
    walk.through(_parsed(lines), set())
    return sorted(walk.found)


def _parsed(lines: Iterator[str]) -> list["str | _Loop"]:
    """The operations up to the end of a region; regions that are no loop and no condition are flattened."""
    found: list[str | _Loop] = []
    for line in lines:
        if line.startswith("}"):
            found.append(line)  # its closing brace says whether another region follows
            return found
        if not line.endswith("{"):
            found.append(line)
        elif "scf." in line:
            loop = _Loop("scf.if" not in line)
            while True:
                region = _parsed(lines)
                end = region.pop()
                loop.regions.append(region)
                if not (isinstance(end, str) and end.endswith("{")):
                    break
            found.append(loop)
        else:
            found += _parsed(lines)
    return found


class _Walk:
    def __init__(self) -> None:
        self.found: set[str] = set()
        self._root: dict[str, str] = {}
        """View of shared memory -> what it is a view of."""

    def through(self, operations: list["str | _Loop"], written: set[str]) -> set[str]:
        """Find what may be written and not fenced after the operations, if `written` was before them."""
        for operation in operations:
            if isinstance(operation, str):
                self._one(operation, written)
                continue
            for _ in range(2 if operation.repeated else 1):
                # A loop may have no turn, a condition no second branch.
                ends = [self.through(region, set(written)) for region in operation.regions]
                covered = not operation.repeated and len(operation.regions) > 1
                written = set().union(*ends) | (set() if covered else written)
        return written

    def _one(self, line: str, written: set[str]) -> None:
        result = _RESULT.match(line)
        name, operation = result.groups() if result else ("", line)
        if operation.startswith("ttg.local_alloc"):
            self._root[name] = name
            if operation.startswith("ttg.local_alloc %"):
                written.add(name)
        elif view := _VIEW.match(operation):
            self._root[name] = self._root.get(view[1], view[1])
        elif write := _WRITES.match(operation):
            written.add(self._root.get(write[2], write[2]))
        elif operation.startswith("ttng.fence_async_shared"):
            written.clear()
        elif product := _PRODUCT.match(operation):
            operands = zip(product.groups()[:2], product.groups()[2:], strict=True)
            read = {self._root.get(x, x) for x, kind in operands if "memdesc" in kind}
            if read & written:
                self.found.add(name)
