// Formulas, as pymdownx.arithmatex marks them. One that does not parse stops the script
// with an error in the console, and stands out in red.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const text = element.textContent.trim();
  const displayed = text.startsWith("\\[");
  katex.render(text.slice(2, -2), element, { displayMode: displayed, throwOnError: false });
});
