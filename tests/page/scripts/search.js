// Images found as one types, with nothing but a keyboard.
"use strict";

const { assert, browse, open, close, text, says, tabTo } = require("./page.js");

browse(async (browser) => {
  const page = await open(browser, "/images");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.innerText), "Skip to the content");
  await page.keyboard.press("Enter");
  await tabTo(page, "Search");
  await page.evaluate(() => { window.same = true; });
  await page.keyboard.type("NGINX", { delay: 20 });
  await says(page, "1 image", "#found");
  assert.match(await text(page, "#list"), /docker\.io\/library\/nginx:1\.27-alpine/);
  assert.doesNotMatch(await text(page, "#list"), /shop/);
  assert.ok(await page.evaluate(() => window.same), "the page was loaded anew");
  assert.match(page.url(), /q=NGINX/);
  await tabTo(page, "docker.io/library/nginx:1.27-alpine");
  await page.keyboard.press("Enter");
  await says(page, "Index of platforms");

  // Back is the list that was found.
  await page.goBack();
  await says(page, "nginx:1.27-alpine", "#list");
  assert.equal(await page.getByLabel("Search").inputValue(), "NGINX");
  await page.getByLabel("Search").fill("");
  await says(page, "3 repositories", "#found");
  await page.getByLabel("Search").fill("nothing-like-it");
  await says(page, "No cached image fits.", "#list");

  // From the registry down to a layer, and from it to those who share it.
  await page.goto("/images");
  await page.getByRole("link", { name: "ghcr.io" }).click();
  await page.getByRole("link", { name: "acme/shop-backend" }).click();
  await page.getByRole("link", { name: "2.4.1" }).click();
  await page.getByRole("link", { name: "linux/amd64" }).click();
  await says(page, "/usr/local/bin/shop");
  await page.locator("tr", { hasText: "Layer 1" }).getByRole("link").click();
  await page.getByRole("link", { name: "docker.io/library/alpine:3.20" }).click();
  await says(page, "library/alpine:3.20", "h1");
  await close(page);
});
