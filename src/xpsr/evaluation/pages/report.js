// Puts a report together. Depends on all others.
(() => {
  const data = readData();
  setUpTheme(find("theme"));
  find("eyebrow").textContent = data.eyebrow;
  find("title").textContent = data.title;
  find("lead").textContent = data.lead;
  find("embedded").textContent = data.embedded;
  setUpSummary(data);
  setUpDifferences(data);
  const viewer = new Viewer(data);
  setUpCases(data, viewer);
  setUpPlots(data, viewer);
  setUpScores(data, viewer);
  find("facts").append(factsOf(data.facts));
})();
