"""Promises of the pages: commands, options, paths, links and code that they show exist."""

import re
from pathlib import Path

import pytest
import torch

from Dataset.make_sample import make_sample
from misc.cli.options import STEPS, build_parser
from net.checkpoint import save_checkpoint
from net.resnet50_irn import Net
from tests.conftest import PROJECT, THIN

TEXTS = {
    str(path.relative_to(PROJECT)): path.read_text()
    for path in sorted(PROJECT.rglob("*"))
    if path.suffix in (".md", ".py", ".sh", ".html", ".js") and path != Path(__file__)
    and not {".git", ".venv", "result"} & set(path.relative_to(PROJECT).parts)
}  # fmt: skip
PAGES = {name: text for name, text in TEXTS.items() if name.endswith(".md")}
README = PAGES["README.md"]
# Options of other programs, and of those of this project that have a parser of their own.
OTHERS = set(
    """--nnodes --nproc-per-node --max-restarts --rdzv-backend --rdzv-endpoint --rdzv-id
    --ntasks-per-node --gpus-per-node --cpus-per-task --time --requeue --signal --nodes --NAME_root
    --out_dir --sizes --json --mnist_root --mnist_download --final_activation --over --preset
    --seeds --score --best --worst --backbone --layout --out --images --epochs --classifier --others
    --irn --learning_rate""".split()
)
# Words that a reader from the paper would have to learn; the field has others for them.
WORDS = """bill|walked map|thin network|drawn sample|telling pixel|climbed|plain map|undecided|\
in force|behind a run|what pulls it|tracker|fault script|recorded array|refiner"""
BEGINNINGS = r'"""(?:What|Whether|Where|How|Who|Which)\b'  # of docstrings


def blocks(language: str) -> list[tuple[str, str]]:
    """All code blocks of a language, with their page."""
    pattern = rf"^ *```{language}\n(.*?)^ *```"
    return [
        (name, code)
        for name, text in PAGES.items()
        for code in re.findall(pattern, text, re.DOTALL | re.MULTILINE)
    ]


def anchors(text: str) -> set[str]:
    """The link targets of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_read_in_one_sitting():
    lines = README.splitlines()
    assert len(lines) <= 250 and len(README.encode()) <= 18_000
    assert "```bash" in lines[:60]
    assert all(len(text.splitlines()) <= 150 for text in PAGES.values() if text is not README)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_is_named_exists(page):
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", PAGES[page]))
    assert named - OTHERS - known == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_module_and_link_exists(page):
    text = PAGES[page]
    paths = set(re.findall(r"`((?:misc|net|step|tests|voc12|coco14|Demo)/[\w/.]+)", text))
    modules = re.findall(r"python -m ((?:tests|step|Dataset|Demo|voc12|coco14)[\w.]*)", text)
    paths |= {f"{module.replace('.', '/')}.py" for module in modules}
    made = {"coco14/cls_labels_coco.npy", "step/NAME.py"}
    assert [p for p in paths - made if not (PROJECT / p.rstrip(".")).exists()] == []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (PROJECT / page).parent / path if path else PROJECT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_pages_code_and_help_use_the_words_of_the_field():
    texts = {**TEXTS, "--help": build_parser().format_help()}
    words = re.compile(rf"\b(?:{WORDS})s?\b|{BEGINNINGS}", re.IGNORECASE)
    assert [(name, word) for name, text in texts.items() for word in words.findall(text)] == []


def test_no_block_of_a_page_is_lost_and_the_end_of_a_run_has_the_recorded_scores():
    assert [name for name, text in PAGES.items() if "\n\n\n" in text] == []
    shown = re.findall(r"^(CAM seed|RIB seed|pseudo masks) +(\S+) +(\S+)$", README, re.MULTILINE)
    rows = [f"| {' | '.join(cells)} |" for cells in shown]
    assert len(rows) == 3 and all(row in PAGES["Demo/RESULTS.md"] for row in rows)


def test_every_step_is_in_the_table():
    assert all(f"| `{name}` |" in README for name in STEPS)


def test_the_code_of_the_pages_runs(tmp_path, monkeypatch):
    make_sample(tmp_path / "Dataset" / "sample_voc12", 6, 1)
    link = tmp_path / "Dataset" / "sample_classifier.pth"
    link.symlink_to(PROJECT / "Dataset" / "sample_classifier.pth")
    save_checkpoint(tmp_path / "result" / "sample_voc12" / "res50_irn.pth", Net(**THIN))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (code,) = [code for page, code in blocks("python") if page == "README.md" and "import" in code]
    exec(code, names)
    image, mask, maps = names["image"], names["mask"], names["maps"]
    assert names["cams"].shape == (20, *image.shape[:2])
    assert maps["high_res"].shape == (1, *image.shape[:2]) and maps["keys"].tolist() == [7]
    assert mask.shape == image.shape[:2] and set(mask.ravel()) <= {0, 8}
    before = torch.load(link, weights_only=True)["state_dict"]["classifier.weight"].float()
    assert torch.equal(names["network"].classifier.weight, before)  # left as it was


def test_the_method_that_is_shown_is_the_one_that_runs():
    (shown,) = [code for _, code in blocks("python") if code.startswith("class ")]
    assert shown.strip() in Path(PROJECT / "step" / "make_cam.py").read_text()
