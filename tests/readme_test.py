"""The text of the README is run as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_own_model_example_is_short_and_works(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) < 40
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert float(capsys.readouterr().out) > 0.9
