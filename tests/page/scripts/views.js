// Every view by day on a desk, by night on a phone, and without scripts.
"use strict";

const { FACTS, assert, browse, open, close, accessible, shot, fits, text } = require("./page.js");

const named = (name) => `/image?name=${encodeURIComponent(name)}`;

// Where a view is, and what it must say.
const VIEWS = {
  overview: ["/", ["Pulls 4", "Hit ratio", "Bytes saved", "64 of 100", "failed", "503", "of 64.0 MiB"]],
  images: ["/images", ["library/nginx", "library/alpine", "acme/shop-backend", "ghcr.io"]],
  tags: ["/images?registry=docker.io&repository=library%2Fnginx", ["1.27-alpine", "fresh for", "100 %", "confirmed"]],
  image: [named(FACTS.image), ["Index of platforms", "linux/amd64", "linux/arm64", "not pulled", "fresh for"]],
  platform: [named(FACTS.platform), ["nginx -g daemon off;", "80/tcp", "Layer 3", "2 other images", "addgroup -g 101", "linux/amd64"]],
  blob: [`/blob?digest=${encodeURIComponent(FACTS.base)}`, ["docker.io/library/alpine:3.20", "docker.io/library/nginx:1.27-alpine", "ghcr.io/acme/shop-backend:2.4.1"]],
  live: ["/live", ["5.0 MiB of 8.0 MiB", "ghcr.io/acme/shop-backend", "telemetry.example.com", "policy.default"]],
  registries: ["/registries", ["docker.io", "64 of 100", "the gateway's", "configured", "503", "on"]],
  clients: ["/clients", [FACTS.fingerprint, "/setup/docker | sudo sh", "/setup/kubernetes | kubectl apply -f -", "/setup/podman", "/setup/containerd", "/setup/buildkit"]],
};

browse(async (browser) => {
  const looks = {
    "": {},
    "-phone": { viewport: { width: 375, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark" },
    "-plain": { javaScriptEnabled: false },
  };
  for (const [look, options] of Object.entries(looks)) {
    const page = await open(browser, "about:blank", options);
    page.wrong = [];
    for (const [name, [address, words]] of Object.entries(VIEWS)) {
      await page.goto(address);
      const said = await text(page);
      for (const word of words) assert.ok(said.includes(word), `${address} says no ${word}: ${said}`);
      assert.ok(!said.includes("do-not-show-me"), "an image's environment is shown");
      if (look === "-plain") continue;
      await fits(page);
      await shot(page, name + look);
      await accessible(page);
    }
    if (look === "-plain") {
      // What opens, opens without scripts, too; and so does the search.
      await page.goto("/live");
      await page.getByText("What would allow it").click();
      assert.match(await text(page, ".denials pre"), /hosts = \["telemetry\.example\.com"\]/);
      await page.goto("/images");
      await page.getByLabel("Search").fill("shop");
      await page.getByLabel("Search").press("Enter");
      assert.match(await text(page, "#list"), /ghcr\.io\/acme\/shop-backend:2\.4\.1/);
      assert.doesNotMatch(await text(page, "#list"), /alpine/);
    }
    await close(page);
  }
});
