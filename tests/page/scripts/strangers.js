// A page of another site, which the gateway's person happens to open.
"use strict";

const { PAGE, FACTS, assert, browse, open } = require("./page.js");

browse(async (browser) => {
  const page = await open(browser, "about:blank");
  await page.goto(`http://${FACTS.evil}/prize`);
  const answered = page.waitForResponse((response) => response.url().endsWith("/actions/switch"));
  await page.getByRole("button", { name: "Win a prize" }).click();
  const response = await answered;
  assert.equal(response.status(), 403);
  assert.match(await response.request().headerValue("sec-fetch-site"), /cross-site/);

  // Nor does a script of theirs read anything.
  await page.goto(`http://${FACTS.evil}/prize`);
  const read = await page.evaluate(async (address) => {
    try {
      return await (await fetch(address)).text();
    } catch (error) {
      return `no: ${error}`;
    }
  }, `${PAGE}/api/v1/images`);
  assert.match(read, /^no: TypeError/);

  // Nor does it help that their name leads to the gateway by now.
  const rebound = await page.goto(`http://evil.example:${FACTS.admin}/`);
  assert.equal(rebound.status(), 421);
  assert.match(await rebound.text(), /localhost/);
}, ["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
