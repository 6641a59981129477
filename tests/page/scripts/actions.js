// Everything that can be done, done with a mouse here and a keyboard there.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const { FACTS, assert, browse, open, close, accessible, text, says, tabTo } = require("./page.js");

browse(async (browser) => {
  const page = await open(browser, "/");
  const image = `/image?name=${encodeURIComponent(FACTS.image)}`;
  const press = (name) => page.getByRole("button", { name, exact: true }).click();

  await page.goto(image);
  await press("Pin");
  await says(page, "Pinned: it is never evicted.", "[role=status]");
  await says(page, "pinned", "h1");
  await press("Unpin");
  await says(page, "Unpinned", "[role=status]");
  assert.doesNotMatch(await text(page, "h1"), /pinned/);

  await press("Refresh");
  await says(page, "The pull has begun.", "[role=status]");
  await says(page, "done", "tr:has-text('nginx')");

  const export_ = page.waitForEvent("download");
  await page.goto(image);
  await page.getByRole("link", { name: "Export" }).click();
  assert.equal(await (await export_).failure(), null, "the whole image is there by now");

  await page.goto("/images");
  await page.getByLabel("Image", { exact: true }).fill("registry.test/tools/fresh:1");
  await page.getByLabel("Platforms").fill("linux/amd64");
  await press("Pull");
  await says(page, "done", "tr:has-text('tools/fresh:1')");
  await page.getByRole("link", { name: "registry.test/tools/fresh:1" }).click();
  await says(page, "tools/fresh:1", "h1");

  // A name that is none is said so, in the page's own frame.
  await page.goto("/images");
  await page.getByLabel("Image", { exact: true }).fill("https://nonsense");
  await press("Pull");
  await says(page, "is an address", "[role=alert]");
  page.wrong = page.wrong.filter((line) => !line.includes("400"));
  await accessible(page);

  // Without a mouse, and asked for twice.
  await page.goto(image);
  await tabTo(page, "Remove…");
  await page.keyboard.press("Enter");
  await tabTo(page, "Remove");
  await page.keyboard.press("Enter");
  await says(page, "Removed.", "[role=status]");
  await page.goto("/images?q=nginx");
  await says(page, "No cached image fits.");

  await page.goto("/registries");
  const row = page.locator("tr", { hasText: "quay.io" });
  await row.getByRole("button", { name: "Switch off" }).click();
  await says(page, "The registry is switched off", "[role=status]");
  assert.match(await row.innerText(), /off/);
  await row.getByRole("button", { name: "Switch on" }).click();
  await says(page, "The registry is switched on", "[role=status]");

  await page.goto("/");
  await press("Read it anew");
  await says(page, "Nothing in it has changed.");
  fs.appendFileSync(FACTS.config, "\nwatch_confg = true\n");
  await page.goto("/");
  await press("Read it anew");
  await says(page, "watch_config", "[role=alert]");
  page.wrong = page.wrong.filter((line) => !line.includes("409"));
  await page.goto("/");
  await says(page, "The configuration was refused; the one before is in force.", "[role=alert]");
  await accessible(page);

  await page.goto("/clients");
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "Download ca.crt" }).click();
  const pem = fs.readFileSync(await (await download).path());
  const fingerprint = new crypto.X509Certificate(pem).fingerprint256;
  assert.ok((await text(page)).includes(fingerprint), fingerprint);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByRole("button", { name: "Copy" }).first().click();
  await says(page, "Copied", "button");
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^curl -fsSL http:\/\/\S+\/setup\/docker \| sudo sh$/);
  await close(page);
});
