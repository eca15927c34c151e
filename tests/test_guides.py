"""The code blocks of the guides run, in order, as a reader would run them."""

from pathlib import Path

import pytest

from tests.guides import blocks, is_printed, run_guide

GUIDE = """
```python
value = 1 + 1
```

```sh
word=hello
export word
```

Text between the blocks changes nothing.

```python
print(value, {"b": [value]})
```

```json
2 {"b":
  […]}
```

```console
$ echo $word \\
    world
hello world
$ echo "$GIVEN"
```

```ini
[Unit]
```

*Not run by the tests: it needs systemd.*
"""


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """The path of a guide that the test writes."""
    return tmp_path / "guide.md"


async def test_blocks_run_in_order_with_the_names_of_earlier_blocks(guide: Path) -> None:
    guide.write_text(GUIDE.replace('{"b": [value]}', "'{\"b\": [2]}'"))
    assert [block.suffix for block in blocks(guide.read_text())] == ["py", "sh", "py", "sh", "sh"]
    await run_guide(guide, guide.parent, GIVEN="given")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```sh\nfalse\ntrue\n```\n", "guide.md:1 failed"),
        ("```python\nnone.none\n```\n", "NameError"),
        ("```sh\necho 1\n```\n\n```output\n2\n```\n", "guide.md:1 printed 1"),
        ("```console\n$ echo $((1 + 1))\n3\n```\n", "guide.md:1 printed 2"),
        ("- item\n\n  ```sh\n  true\n  ```\n", "a fence is indented or open"),
        ("\n```yaml\na: 1\n```\n", "line 2: the block is neither run nor excused"),
        ("```sh\ntrue\n```\n\nText\n\n```output\n\n```\n", "line 7: the block is neither"),
    ],
)
async def test_a_block_that_fails_or_prints_something_else_fails_the_test(
    guide: Path, text: str, fault: str
) -> None:
    guide.write_text(text)
    with pytest.raises(AssertionError, match=fault):
        await run_guide(guide, guide.parent)


async def test_a_module_of_a_guide_runs_in_node(guide: Path) -> None:
    guide.write_text(
        '```js\nconsole.log(await Promise.resolve("ready"));\n```\n```output\nready\n```\n'
    )
    await run_guide(guide, guide.parent)


def test_printed_text_is_compared_without_white_space_and_with_gaps() -> None:
    assert is_printed("a … d\n", "a b\nc  d")
    assert not is_printed("a … d\n", "a b c")
    assert not is_printed("a.c", "abc")
