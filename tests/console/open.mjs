// The console of a worker without tokens, for whoever is on its machine: nothing to sign in to, and forms work; and what a page says when
// its worker is gone.
import assert from "node:assert/strict";
import { launch } from "./chromium.mjs";

const [base, shots] = process.argv.slice(2);
const { open, shot, clean, forgive, close } = await launch(base, shots);

const page = await open();
await page.goto(base + "/sign-in");
assert.equal(page.url(), base + "/");
assert.equal(await page.locator("button:has-text('Sign out')").count(), 0);
await page.goto(base + "/endpoints/acme/main");
await page.click("summary");
await page.fill("[name=reason]", "no script is needed");
await page.click("button:has-text('Pause')");
await page.waitForSelector("text=Paused by local");
await page.click("button:has-text('Resume')");
await page.waitForSelector(".tag.good:has-text('working')");
clean("forms without a token");

await page.goto(base + "/");
await page.waitForSelector("text=Ready:");
process.stdout.write("looking\n"); // The test ends the worker now.
await page.waitForSelector("#lost");
assert.match(await page.textContent("#lost"), /what is shown is old/);
await shot(page, "lost");
forgive();
await close();
