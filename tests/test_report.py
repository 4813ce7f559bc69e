"""The report shows what is there: what is planted stands in its own cell, nothing else does."""
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import jobs
import metrics
import report

CLASSES = ["benign", "malignant"]
CONFIG = dict(model="cnn", classes=CLASSES, steps=9, share="1/2", synthetic=[], shuffle=False,
              alone=False, augment="none")
GAN = dict(diversity=.9, distinctness=.8, collapsed=False, fd_8x8_distance=.7, fd_8x8_floor=.25)
MINE = GAN | dict(closer_to_train=[.9, .61, .95])


def part(name):
    """A part of report.txt, without its first paragraph."""
    text = (ROOT / "tests/report.txt").read_text(encoding="utf-8")
    return text.partition(f"== {name}\n")[2].partition("\n\n==")[0].partition("\n\n")[2].strip()


def without_intervals(words):
    return re.sub(r" \[[\d., +-]+\]| \(95 % interval [-\d. to]+\)", "", words)


def finished(out, job, config={}, **result):
    """A result.json, and the pictures of a job: each of one colour."""
    config = CONFIG | dict(seed=job.rpartition("-s")[2]) | config
    empty = dict(command="python x", commit="abc1234", device="a GPU", metrics={})
    jobs.write_json(out / job / "result.json", empty | dict(config=config) | result)
    for k in range(10):
        name, colour = f"grid_{k:06d}" if k else "grid", {0: "red", 9: "blue"}.get(k, "black")
        Image.new("RGB", (16, 16), colour).save(out / job / f"{name}.png")


def classifier(out, job, right, tests=("real",), config={}, **result):
    """Two seeds, right in that share of 200 images, 67 of them malignant; in .1 more if mixed."""
    truth = (np.arange(200) % 3 == 0).astype(int)
    curves = dict(loss=[1, .5], accuracy=[.6, .7], val_loss=[1, .6], val_accuracy=[.8, .75])
    result = dict(leaked=0, curves=curves, counts=dict(benign=50, malignant=50)) | result
    for seed in range(2):
        lines, found = ["test,image,lesion,label,benign,malignant"], {}
        for test in tests:
            share = right + 0.1 * (test == "mixed") + 0.005 * (2 * seed - 1)
            correct = np.random.default_rng(1).permutation(200) < round(share * 200)
            for k, score in enumerate(np.where(truth == correct, .9, .1)):
                lines.append(f"{test},i,{test}{k},{CLASSES[truth[k]]},{1 - score:.1f},{score}")
            found[test] = dict(loss=share, confusion=[[81, 2], [3, len(test)]])
        finished(out, f"{job}-s{seed}", config, metrics=found, **result)
        (out / f"{job}-s{seed}/predictions.csv").write_text("\n".join(lines) + "\n")


def gan(out, job, config={}, **measures):
    curves = dict(window=5, D=[1, 3], penalty=[9, 9])
    finished(out, job, dict(model="dcgan_cls") | config, metrics=GAN | measures, curves=curves)


def data(out, study, name, stand_in=None):
    counts = dict(train=dict(benign=30, malignant=45), test=dict(benign=7, malignant=8))
    finished(out, f"{study}/data", source=dict(source=name, stand_in=stand_in), counts=counts)


def page_of(out, scale="small"):
    jobs.write_json(out / "config.json", dict(scale=scale))
    said, file = report.write(out)
    return file.with_suffix(".md").read_text(), file.read_text(), said


def test_what_is_planted_in_the_controls_is_found_and_ones_own_generator_named_first(tmp_path):
    """A DCGAN, of which one seed collapsed, one of which one copies, and one's own that does."""
    data(tmp_path, "controls", "drawn lesions (seed 3)")
    for seed, diversity in enumerate((.7, .5, .6)):
        far = dict(diversity=diversity, fd_8x8_distance=.8)
        gan(tmp_path, f"controls/dcgan_cls_50-s{seed}", collapsed=seed == 0, **far)
        nearer = [.7, .61 - .01 * seed, .8]             # the first one copies
        gan(tmp_path, f"controls/far-s{seed}", closer_to_train=nearer, **far)
    arms = [(.7, {}, {}), (.8, dict(share="1"), {}), (.78, dict(augment="classical"), {}),
            (.6, dict(model="resnet18"), {}), (.65, dict(model="resnet18", share="1"), {})]
    learned = dict(command="python x --synthetic y/dcgan_cls_50-s0")
    mine = dict(generators={"my-vae": MINE})
    for name, right, result in (("dcgan_cls", .75, learned), ("my-vae", .65, mine)):
        for less, kind in ((0, {}), (.1, dict(shuffle=True)), (.2, dict(alone=True))):
            arms.append((right - less, kind | dict(synthetic=[name]), result))
    for k, (right, config, result) in enumerate(arms):      # names say nothing
        classifier(tmp_path, f"controls/{k:02d}", right, config=config, **result)
    (tmp_path / "controls/04-s1/result.json").unlink()
    markdown, _, said = page_of(tmp_path)
    assert "| as many further real images | +4.5 points |" in without_intervals(markdown)
    assert without_intervals(said) == part("answer").replace("\n", " ")
    assert all(words in markdown for words in ("seeds, up to 2.", "Scale small;", "| 28 on a GPU"))
    assert part("gains") in without_intervals(markdown) and part("gans") in markdown
    chart = (tmp_path / "report/001.svg").read_text()
    assert re.findall(r'<circle cx="(\d+)"', chart) == ["259", "173"]      # the DCGAN, my-vae
    one = report.gan_row("of a single image", dict(diversity=1, distinctness=1, collapsed=False))
    assert (one["state"], one["FD-8x8 (noise floor)"]) == ("alive", "-")
    assert report.gan_row("", GAN | dict(fd_8x8_distance=.8))["state"] == "alive, but far"


@pytest.mark.parametrize("with_gan, more, said", [
    (.75, .70, "cannot be told here: as many further real photographs"),
    (.705, .80, "Here GAN images did not help: one was worth 0.06")])
def test_no_worth_without_a_gain_from_real_images(tmp_path, with_gan, more, said):
    arms = [(.70, {}), (with_gan, dict(synthetic=["dcgan_cls"])), (more, dict(share="1")),
            (.72, dict(share="1/4")), (.72, dict(share="1/4", synthetic=["dcgan_cls"]))]
    for k, (right, config) in enumerate(arms):
        classifier(tmp_path, f"controls/{k}", right, config=config)
    assert said in page_of(tmp_path)[2]


def test_claims_get_their_verdicts_and_stand_on_the_first_screen(tmp_path, monkeypatch):
    for line in part("verdicts").splitlines():
        printed, gain, p, expected = line.split("; ")
        *gain, p = [None if number == "-" else float(number) for number in f"{gain} {p}".split()]
        assert report.verdict(printed, gain, p) == expected, line

    for net, right, command in (("cnn", .71, "python x"), ("mobilenet", .75, "python x"),
                                ("resnet18", .80, "python x --synthetic y/gan-s0")):
        classifier(tmp_path, f"wgan_gp/{net}_real", .70)
        classifier(tmp_path, f"wgan_gp/{net}_hybrid", right, ("real", "mixed"), command=command)
    gan(tmp_path, "wgan_gp/gan-s0", collapsed=True)
    random_weights = dict(config=dict(weights="none"))
    classifier(tmp_path, "dcgan_cls/base", .93)
    classifier(tmp_path, "dermagan/cnn_gan", .80)
    classifier(tmp_path, "dermagan/mobilenet", .70, **random_weights)
    classifier(tmp_path, "dcgan_inception/original_64", .70, **random_weights)
    classifier(tmp_path, "dcgan_inception/augmented_64", .78, **random_weights)
    first, paper, *_ = without_intervals(page_of(tmp_path)[0]).split("### Claims")
    assert part("claims") in first and part("claims of paper 000") in paper
    assert "rehearsal" not in first and "Stated" not in paper

    study = report.Study(tmp_path / "wgan_gp", [])
    monkeypatch.setattr(report, "verdict", lambda printed, gain, p: (gain[3], p))
    raw, corrected = zip(*(row["verdict"] for row in report.claims_of(study, "claim")))
    assert list(corrected) == metrics.holm(raw) != list(raw)
    assert study.gain("cnn_real", "cnn_*")[0] == pytest.approx(.005)    # mean of those that fit
    assert study.gain("cnn_real vgg", "cnn_hybrid") is None
    assert report.points([.1, .05, .15, .01]) == "+10.0 points [+5.0, +15.0]"


def in_words(title, label, series):
    lines = [f"{title}, over {label}"]
    for name, xs, ys in series:
        points = [f"{x:.3g}/{y:.3g}" for x, y in zip(xs, ys)]
        lines.append(f"{name} {' '.join(points)}")
    return "; ".join(lines)


def test_cells_tables_and_figures_of_a_paper_are_filled(tmp_path, monkeypatch):
    classifier(tmp_path, "s/net", .70, tests=("real", "mixed"))
    classifier(tmp_path, "s/net_a_2", .80)
    classifier(tmp_path, "s/net_a_10", .90)
    data(tmp_path, "s", "photographs")
    gan(tmp_path, "s/gan-s0", resemblance=.2)
    gan(tmp_path, "s/gan-s1", resemblance=.4)
    row = dict(set="9", distance=1.5, spread=.25, floor=.5, kid=.001, inception_score=2)
    finished(tmp_path, "s/score", net="FID", rows=[row])
    layers = [["", [4, 8, 8], 1234], ["", [8, 8], 5], ["Flatten", [], 0], ["total", [], 1300]]
    finished(tmp_path, "s/networks", tables=dict(net=layers))
    study, shown = report.Study(tmp_path / "s", []), report.Page(tmp_path / "report")
    for line in part("cells").splitlines():
        job, row, measure, expected = line.split("; ")
        assert report.value(study, job, measure, row).startswith(expected), line
    (tmp_path / "s.md").write_text(part("paper"), encoding="utf-8")
    monkeypatch.setitem(report.PAPERS, "s", tmp_path / "s.md")
    monkeypatch.setattr(report, "line_chart", in_words)
    report.paper_section(shown, study)
    assert without_intervals("\n\n".join(shown.blocks)) == part("section")
    charts = [file.read_text() for file in sorted(shown.place.glob("*.svg"))]
    assert "\n".join(charts) == part("charts")
    monkeypatch.setattr(metrics, "level", lambda arm: None)             # undefined
    assert report.value(study, "net", "precision", "benign") == "never predicted"
    assert report.value(study, "net", "recall", "benign") == "no benign here"


def test_blocks_become_html_lines_go_where_their_numbers_are_and_pictures_are_small(tmp_path):
    for block, expected in (
            ("### a *b* `c<d`", "<h3>a <i>b</i> <code>c&lt;d</code></h3>"),
            ("- **a**\n- b", "<ul><li><b>a</b></li><li>b</li></ul>"),
            ("| a |\n| --- |\n| 1 |", "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>")):
        assert expected in report.to_html(block, tmp_path)
    chart = report.line_chart("<title>", "x", [("up", [1, 3], [2, 12]), ("flat", [1, 2], [7, 7])])
    assert '"50.0,180.0 344.0,30.0"' in chart and '"50.0,105.0 197.0,105.0"' in chart
    assert "&lt;title&gt;" in chart and re.findall(r'y="(\d+)"[^>]*>(\d+)<', chart) == [
        ("184", "2"), ("196", "1"), ("109", "7"), ("196", "2"), ("34", "12"), ("196", "3")]
    colours = [re.findall(f'(#\\w+)"{what}', chart) for what in (" stroke-width", ">(?:up|flat)<")]
    assert colours == [report.COLOURS[:2]] * 2
    assert 'd="M216 46H345"' in report.interval_chart("t", {"a": [.5, 0, 9]})     # cut off at 1.5

    shown, folder = report.Page(tmp_path / "x"), tmp_path / "study/job"
    shown.table([{"a|b": "<c>\nd"}])
    folder.mkdir(parents=True)
    Image.new("RGB", (2080, 160)).save(folder / "d.png")
    shown.pictures([('"[b]"\n<c>', "<svg>"), *[(name, folder / f"{name}.png") for name in "de"]])
    assert shown.blocks == ["| a b |\n| --- |\n|  c  d |", "\\\n".join([
        '![" b "  c ](x/001.svg)', '" b "  c ', "![d](x/study-job-d.jpg)", "d",
        "![e](x/study-job-e.jpg)", "e"])]
    assert Image.open(tmp_path / "x/study-job-d.jpg").size == (1040, 80)
    image = '<img alt="&quot; b &quot;  c " src="data:image/svg+xml;base64,PHN2Zz4="><figcaption>"'
    row = report.to_html(shown.blocks[1], tmp_path)
    assert image in row and row.count("src=\"data:image/jpeg;") == 2


@pytest.mark.parametrize("whole, damaged", [
    ("{", "["), ('"real"', '"late"'), ('"metrics": {', '"metrics": {"diversity": 1, '),
    ('"leaked": 0', '"leaked": 0, "generators": {"mine": {"diversity": 1}}')])
def test_a_broken_or_foreign_file_is_named_and_skipped(tmp_path, whole, damaged):
    classifier(tmp_path, "controls/cnn_100_mine", .7)
    file = tmp_path / "controls/cnn_100_mine-s0/result.json"
    file.write_text(file.read_text().replace(whole, damaged))
    markdown = page_of(tmp_path)[0]
    assert "Left out, damaged: controls/cnn_100_mine-s0: " in markdown
    assert "| controls | unknown images | 1 on a GPU | abc1234 |" in markdown
    pytest.raises(jobs.UserError, report.write, tmp_path / "nothing").match("run_all.sh")


def test_every_string_is_escaped_and_what_breaks_a_section_does_not_break_the_page(tmp_path):
    evil = "<script>alert('`*|')</script>"
    classifier(tmp_path, "controls/cnn_100_mine", .7, generators={evil: MINE}, commit=evil)
    classifier(tmp_path, "dcgan_cls/base", .7, command=3, config=dict(weights="none"))
    finished(tmp_path, "controls/data", source=dict(source=evil), counts=dict(train=3))
    markdown, html, _ = page_of(tmp_path, "quick")
    assert "<script" not in html and "## How this was made" in markdown
    assert "damaged: controls: " in markdown and "rehearsal" in markdown
    assert markdown.count("damaged: dcgan_cls: ") == 1      # no claims on the first screen
    (tmp_path / "config.json").unlink()
    assert "Scale unknown" in report.write(tmp_path)[1].read_text()


@pytest.mark.parametrize("name, stand_in, shown", [
    ("drawn lesions (seed 0)", None, {"data-grid": 0, "acgan-grid": 0, "cycle_AK-grid": 0}),
    ("drawn lesions", "ham10000", {"acgan-grid": 0, "cycle_AK-grid_000009": 2}),
    ("my drawn lesions", None, {"acgan-grid": 0, "cycle_AK-grid_000009": 2})])
def test_docs_hold_no_photograph(tmp_path, done, name, stand_in, shown):
    """0: red, a job's picture; 2: blue, its last images, without what a CycleGAN translated."""
    data(tmp_path, "acgan_cyclegan", name, stand_in)
    gan(tmp_path, "acgan_cyclegan/acgan")
    gan(tmp_path, "acgan_cyclegan/cycle_AK", dict(source="hash"))
    jobs.write_json(tmp_path / "config.json", dict(scale="small"))
    assert "docs/small.html" in done("report", tmp_path, "--docs", tmp_path / "docs")
    text, colours = (tmp_path / "docs/small.md").read_text(), {}
    for name in re.findall(r"\]\(small/acgan_cyclegan-(.*).jpg\)", text):
        image = Image.open(tmp_path / f"docs/small/acgan_cyclegan-{name}.jpg")
        colours[name] = np.argmax(image.getpixel((0, 0)))
    assert colours == shown
