// A browser, and what every script wants of it.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const PAGE = process.env.PAGE;
const FACTS = JSON.parse(process.env.FACTS);
const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// Runs `look` with a browser that ends with it; `more` are arguments of its command line.
function browse(look, more = []) {
  const run = async () => {
    const browser = await chromium.launch({
      executablePath: "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", ...more],
    });
    try {
      await look(browser);
    } catch (error) {
      for (const page of browser.contexts().flatMap((context) => context.pages())) {
        console.error(page.url(), page.wrong, await page.locator("body").innerText().catch(() => ""));
      }
      throw error;
    } finally {
      await browser.close();
    }
  };
  run().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

// A tab with a profile of its own. It notes what is wrong and nobody looks at: an error in a script, a
// request that fails or leaves the gateway, a violated policy.
async function open(browser, address, options = {}) {
  const context = await browser.newContext({ baseURL: PAGE, viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  page.wrong = [];
  page.on("pageerror", (error) => page.wrong.push(`error: ${error}`));
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type())) page.wrong.push(`console: ${line.text()}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(PAGE)) page.wrong.push(`leaves the gateway: ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) page.wrong.push(`${response.status()}: ${response.url()}`);
  });
  await page.goto(address);
  return page;
}

async function close(page) {
  assert.deepEqual(page.wrong, [], page.url());
  await page.context().close();
}

// axe-core finds nothing, of whatever severity.
async function accessible(page) {
  // By the debugger, which no policy of the page stops.
  await page.evaluate(AXE);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map((one) => {
    const where = one.nodes.map((node) => `${node.html}\n    ${node.failureSummary}`);
    return `${one.id}: ${one.help}\n  ${where.join("\n  ")}`;
  });
  assert.deepEqual(told, [], page.url());
}

async function shot(page, name) {
  await page.screenshot({ path: path.join(process.env.SHOTS, `${name}.png`), fullPage: true });
}

// The page is no wider than the screen: what is wide scrolls by itself.
async function fits(page) {
  const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= screen, `${page.url()} is ${wide} wide on a screen of ${screen}`);
}

// The text that a reader sees.
async function text(page, selector = "main") {
  return (await page.locator(selector).innerText()).replace(/\s+/g, " ");
}

// Waits until a reader sees `wanted`.
async function says(page, wanted, selector = "main") {
  await page.locator(selector).filter({ hasText: wanted }).first().waitFor();
}

// Tabs until what has the focus is called `name`.
async function tabTo(page, name) {
  for (let i = 0; i < 80; i += 1) {
    await page.keyboard.press("Tab");
    const called = await page.evaluate(() => {
      const one = document.activeElement;
      return one.labels?.[0]?.innerText ?? one.getAttribute("aria-label") ?? one.innerText;
    });
    if (called?.trim().replace(/\s+/g, " ") === name) {
      const seen = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
      assert.ok(seen, `nobody sees that ${name} has the focus`);
      return;
    }
  }
  assert.fail(`the keyboard does not lead to ${name}`);
}

module.exports = { PAGE, FACTS, assert, browse, open, close, accessible, shot, fits, text, says, tabTo };
