// Figures that stand alone and are much wider than high: `style.css` does not shrink them to
// the width of a phone.
document.querySelectorAll(".md-typeset p > img:only-child").forEach((image) => {
  const mark = () => {
    const wide = image.naturalWidth > 1.5 * image.naturalHeight;
    const alone = !image.parentElement.textContent.trim();
    image.parentElement.classList.toggle("wide-figure", wide && alone);
  };
  image.complete ? mark() : image.addEventListener("load", mark);
});
