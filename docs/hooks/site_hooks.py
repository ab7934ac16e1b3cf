"""What MkDocs is told beside `mkdocs.yml`: pages made of files outside `docs/`, the pages of
the gallery that exist, and the whole script under each of them."""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

import implicit_eig as ieig


ROOT = pathlib.Path(__file__).resolve().parents[2]

# Page of the site, and the file of the repository it is.
PAGES = {
    "benchmarks.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
WIDE = {"hazards.md"}
GALLERY = (
    "waveguide",
    "orr_sommerfeld",
    "markov_chain",
    "population",
    "skin_effect",
    "koopman",
    "dampers",
    "delay",
    "resonator",
    "bring_your_own_solver",
)
LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_config(config):
    folder = ROOT / "docs/gallery"
    there = {page.stem for page in folder.glob("*.md")} - {"index"}
    names = [name for name in GALLERY if name in there] + sorted(there - {*GALLERY})
    (gallery,) = (item["Gallery"] for item in config.nav if "Gallery" in item)
    gallery.extend(f"gallery/{name}.md" for name in names)
    config.copyright = f"implicit_eig {ieig.__version__}, Apache-2.0"
    return config


def on_page_markdown(markdown, page, config, files):
    # Wide tables want the whole width.
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    name = pathlib.Path(page.file.src_uri)
    if name.parent.name == "gallery" and name.stem != "index":
        markdown += _script(name.stem)
    return markdown.replace("<!-- members of RESULTS -->", _results())


def _script(name):
    """The whole of it, to unfold, and a link to the file."""
    lines = (ROOT / f"docs/examples/{name}.py").read_text().splitlines()
    code = "\n".join(f"    {line}".rstrip() for line in lines if "# --8<--" not in line)
    return (
        f"\n## The whole script\n\n[{name}.py](../examples/{name}.py), {len(lines)} lines; "
        f"`python docs/examples/{name}.py` runs it, `--small` at the size of the tests. "
        "Its picture is drawn in the style of "
        "[figures.mplstyle](../examples/figures.mplstyle).\n\n"
        f'??? example "{name}.py"\n\n    ```python\n{code}\n    ```\n'
    )


# Without a server there is no root that a link could begin at; with one, a page that is not
# found may have been looked for in any folder.
BASE = """<head><script>
if (location.protocol !== "file:") document.write('<base href="/">')
</script>"""


def on_post_template(output, template_name, config):
    if template_name != "404.html":
        return output
    output = re.sub(r'((?:href|src)=")/(?=[^/])', r"\1", output)
    output = output.replace('href="/"', 'href="index.html"')
    output = output.replace('"base": "/"', '"base": "."').replace('"/assets/', '"assets/')
    return output.replace("<head>", BASE, 1)


def on_page_content(html, page, config, files):
    # Without its extension a mark of inclusion is a piece of text like any other.
    if "--8&lt;--" in re.sub(r"<[^>]*>", "", html):
        raise ValueError(f"{page.file.src_uri} shows a mark of inclusion.")


def _results():
    """Each member of `RESULTS` and the sentence a user reads."""
    members = ieig.RESULTS._name_to_item  # equinox has no public way to list them
    sentences = {name: ieig.RESULTS[item] for name, item in members.items()}
    rows = [f"| `{name}` | {sentence or '—'} |" for name, sentence in sentences.items()]
    return "\n".join(["| member | what a user reads |", "|---|---|", *rows])


def on_files(files, config):
    for page, source in PAGES.items():
        text = (ROOT / source).read_text()
        for image in _images(text, source):
            files.append(_copied(config, image))
        files.append(File.generated(config, page, content=_at_the_site(text, source)))
    return files


def _at_the_site(text, source):
    return LINK.sub(lambda link: link[1] + _address(link[2], source), text)


def _images(text, source):
    """Pictures that a page shows, as paths in the repository."""
    for name in {link[2] for link in LINK.finditer(text)}:
        if pathlib.Path(name).suffix in {".png", ".svg", ".webp"} and "://" not in name:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(source), name))


def _copied(config, path):
    return File.generated(config, _at_home(path), abs_src_path=str(ROOT / path))


def _address(link, source):
    """Where on the site a link of a file of the repository leads."""
    if "://" in link:
        return link
    return _at_home(posixpath.normpath(posixpath.join(posixpath.dirname(source), link)))


def _at_home(path):
    pages = {source: page for page, source in PAGES.items()}
    return pages.get(path, path.removeprefix("docs/"))
