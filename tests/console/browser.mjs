// Looks at every page of the console, signed in with a token and below a prefix, as tests/console.rs tells it to.
import assert from "node:assert/strict";
import { launch } from "./chromium.mjs";

const [base, shots, token] = process.argv.slice(2);
const { open, shot, clean, forgive, close } = await launch(base, shots);

const page = await open();
await page.goto(base + "/");
assert.match(page.url(), /\/sign-in$/);
await page.fill("[name=token]", "wrong");
await page.click("main button");
assert.match(await page.textContent("[role=alert]"), /none of/);
forgive(); // The 401 is what was asked for.
await shot(page, "sign-in");
await page.fill("[name=token]", token);
await page.click("main button");
await page.waitForURL(base + "/");
// Every page, without a word in the browser's console.
const pages = [["/", "overview"], ["/endpoints", "endpoints"], ["/endpoints/acme/main", "endpoint"], ["/endpoints/acme/bad?span=1h", "endpoint-failing"],
  ["/events", "events"], ["/events?q=customer-7", "event"], ["/letters/dead", "letters"], ["/letters/rejected", "letters-rejected"], ["/jobs", "jobs"], ["/live", "live"]];
for (const [path, name] of pages) {
  await page.goto(base + path, { waitUntil: "load" });
  await shot(page, name);
  clean(path);
}

// Charts are drawn from what the delivery log has.
await page.goto(base + "/endpoints/acme/main?span=1h");
await page.waitForSelector(".charts .uplot canvas");
assert.equal(await page.locator(".charts .uplot").count(), 2);
await shot(page, "endpoint-charts");

// The search finds an event by a key of its customer, from the keyboard alone.
await page.goto(base + "/events");
await page.locator("h1").click();
await page.keyboard.press("/");
await page.keyboard.type("customer-9");
await page.keyboard.press("Enter");
await page.waitForURL(/q=customer-9/);
assert.match(await page.textContent("main"), /evt-9 of acme, complianceRecord/);
assert.equal(await page.locator("ol.story li").count() >= 2, true);

// A ping is answered on the spot.
await page.goto(base + "/endpoints/acme/main");
await page.click("button:has-text('Ping')");
await page.waitForSelector("#pong .note.good");
assert.match(await page.textContent("#pong"), /answered 200/);

// An endpoint is paused, says why, and goes on.
await page.click("summary");
await page.fill("[name=until]", "1h");
await page.fill("[name=reason]", "their <b>maintenance</b>");
await page.click("button:has-text('Pause')");
await page.waitForSelector("text=Paused by ops");
assert.match(await page.textContent("main"), /their <b>maintenance<\/b>/);
await shot(page, "endpoint-paused");
await page.click("button:has-text('Resume')");
await page.waitForSelector(".tag.good:has-text('working')");
clean("ping, pause and resume");

// Dead letters are replayed: asked first with their number, watched until done.
await page.goto(base + "/letters/dead?integrator=acme");
assert.match(await page.textContent("main"), /5 of 5 fit/);
await page.click("button:has-text('Replay all that fit')");
assert.match(await page.textContent(".note"), /Replay 5 of 5 messages/);
await shot(page, "replay-question");
await page.click("button.main:has-text('Replay 5')");
await page.waitForSelector(".tag.good:has-text('done')");
await shot(page, "replay-done");
await page.click("a:has-text('To the letters')");
assert.match(await page.textContent("main"), /0 of 0 fit/);
clean("a replay");

// The live stream moves.
await page.goto(base + "/live?integrator=acme");
await page.waitForSelector("#live-state:has-text('watching')");
process.stdout.write("watching\n"); // The test publishes now.
await page.waitForSelector("table[data-live] tbody tr:has-text('delivered')");
await shot(page, "live-moving");
clean("the live stream");

// On a phone, in the dark.
const phone = await open({ viewport: { width: 390, height: 844 }, colorScheme: "dark", storageState: await page.context().storageState() });
for (const [path, name] of pages) {
  await phone.goto(base + path, { waitUntil: "load" });
  const wider = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wider, 0, `${path} is wider than a phone by ${wider} px`);
  await shot(phone, `phone-${name}`);
}
clean("on a phone");

// Who has signed out is asked to sign in.
await page.goto(base + "/");
await page.click("button:has-text('Sign out')");
await page.waitForURL(/sign-in$/);
await page.goto(base + "/endpoints");
assert.match(page.url(), /\/sign-in$/);
clean("signing out");
await close();
