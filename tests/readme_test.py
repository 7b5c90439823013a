"""The text of the README is run as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_own_model_example_is_short_and_works_and_so_do_the_baselines_after_it(
    capsys, tmp_path, monkeypatch
):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) < 40
    namespace = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), namespace)
    assert float(capsys.readouterr().out) > 0.9
    monkeypatch.chdir(tmp_path)
    more = re.findall(r"^    (ist_jax\..*)$", README.split("```")[2], re.MULTILINE)
    assert len(more) == 4
    for line in more:
        exec(compile(line, "README.md", "exec"), namespace)
    assert (tmp_path / "runs" / "example" / "summary.json").exists()
