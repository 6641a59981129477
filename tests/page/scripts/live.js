// What goes on now is shown as it goes on, and what a reader has opened stays open.
"use strict";

const http = require("node:http");
const { FACTS, assert, browse, open, close, text, says, tabTo } = require("./page.js");

// Tells the test that it may go on.
function ring() {
  const [host, port] = FACTS.bell.split(":");
  return new Promise((done, failed) => {
    http.get({ host, port, path: "/ring", headers: { host: "bell.test" } }, (answer) => answer.resume().on("end", done)).on("error", failed);
  });
}

browse(async (browser) => {
  const page = await open(browser, "/live");
  await says(page, "5.0 MiB of 8.0 MiB");
  const row = await text(page, "tr:has(progress)");
  assert.match(row, / 2$/, "two clients read along");
  await page.evaluate(() => { window.same = true; });
  await tabTo(page, "What would allow it (telemetry.example.com)");
  await page.keyboard.press("Enter");
  await says(page, 'hosts = ["telemetry.example.com"]');
  await ring();
  await says(page, "Nothing is being downloaded.");
  await says(page, "again.example.com");
  assert.ok(await page.evaluate(() => window.same), "the page was loaded anew");
  assert.ok(await page.locator("pre", { hasText: "telemetry.example.com" }).isVisible(), "what was open is closed");
  const focused = await page.evaluate(() => document.activeElement.innerText);
  assert.match(focused, /What would allow it/, "the focus is lost");

  // Who reads in peace is left in peace.
  await page.getByRole("button", { name: "Pause" }).click();
  assert.equal(await page.getByRole("button", { name: "Go on" }).getAttribute("aria-pressed"), "true");
  await close(page);
});
