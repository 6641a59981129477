// A gateway whose people log in.
"use strict";

const { assert, browse, open, close, text, says } = require("./page.js");

browse(async (browser) => {
  const stranger = await open(browser, "about:blank");
  const refused = stranger.waitForResponse((response) => response.status() === 401);
  // A browser without a login may show the page that came with the 401, or say that it has none.
  await stranger.goto("/").catch((error) => assert.match(error.message, /ERR_INVALID_AUTH_CREDENTIALS/));
  assert.equal(new URL((await refused).url()).pathname, "/");
  await stranger.context().close();

  const page = await open(browser, "/registries", { httpCredentials: { username: "ann", password: "right" } });
  page.wrong = page.wrong.filter((line) => !line.includes("401"));
  const row = page.locator("tr", { hasText: "quay.io" });
  await row.getByRole("button", { name: "Switch off" }).click();
  await says(page, "The registry is switched off", "[role=status]");
  // What renews itself does so with the login, too.
  const events = page.waitForResponse((response) => response.url().endsWith("/api/v1/events") && response.status() === 200);
  await page.goto("/live");
  await events;
  assert.match(await text(page), /Nothing is being downloaded/);
  page.wrong = page.wrong.filter((line) => !line.includes("401"));
  await close(page);
});
