// Acts as a person at the page, in a headless Chromium: opens the link, looks, writes, releases. It prints
// what it saw at each step as one JSON line, then waits for a line on standard input.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [link, executablePath, shots] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const step = async (seen) => {
  console.log(JSON.stringify(seen));
  return (await lines.next()).value;
};
const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath, args: quiet });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
context.setDefaultTimeout(20_000);
const page = await context.newPage();
const trouble = [];
const foreign = [];
page.on('console', (said) => trouble.push(`${said.type()}: ${said.text()}`));
page.on('pageerror', (error) => trouble.push(String(error)));
page.on('dialog', (asked) => trouble.push(`a dialog: ${asked.message()}`));
page.on('request', (asked) => new URL(asked.url()).origin === new URL(link).origin || asked.url().startsWith('data:') || foreign.push(asked.url()));
const shot = (name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

await page.goto(link);
await page.locator('#peers .name').first().waitFor();
await step({ url: page.url(), history: await page.evaluate(() => history.length), agents: await page.locator('#peers').innerText() });

// The human opens a message and reads it as text.
await page.getByText('Read it').click();
const text = page.locator('#message-list .text').first();
await text.waitFor();
await page.locator('#message-list li:not(.mine)').first().waitFor();
const read = {
  text: await text.textContent(), images: await page.locator('main img, main b.evil, main script').count(),
  words: await page.locator('#events').innerText(), entries: await page.locator('#state-list > li').count(),
};
// The filter leaves only the event whose payload is odd.
await page.locator('#filter').fill('odd.event');
await page.locator('#state-list > li').first().waitFor({ state: 'detached' });
read.odd = await page.locator('#event-list > li').count();
await page.locator('#filter').fill('');
await page.locator('#state-list > li').first().waitFor();
await step(read);

// A lock appears without a reload, and is released once the human has confirmed it.
await page.getByRole('button', { name: /^Release .*live\.rs$/ }).waitFor();
await shot('light');
await page.getByRole('button', { name: /^Release .*live\.rs$/ }).click();
const asked = await page.locator('#release-note').innerText();
await page.locator('#release').getByRole('button', { name: 'Release' }).click();
await page.locator('#release').waitFor({ state: 'hidden' });
await page.getByText('Nothing is locked.').waitFor();
await step({ asked });

// The human writes with the keyboard alone.
await page.getByRole('button', { name: /^Write to codex/ }).focus();
await page.keyboard.press('Enter');
await page.locator('#write').waitFor();
await page.keyboard.type('from the page');
await page.keyboard.press('Control+Enter');
await page.locator('#write').waitFor({ state: 'hidden' });
const sent = page.locator('#message-list li').filter({ hasText: 'from the page' });
await sent.waitFor();
await step({ said: await page.locator('#say').innerText(), receipt: await sent.innerText() });

// The human answers in the conversation, finds it again, and looks at the agent's mailbox.
await page.locator('#message-list summary').filter({ hasText: '1 reply, the last from' }).click();
const folded = await page.locator('#message-list .replies').filter({ hasText: 'page from you' }).innerText();
await page.locator('#words').fill('THE from page');
await page.keyboard.press('Enter');
await page.getByText('2 messages with').waitFor();
await page.locator('#found-list').getByRole('button').first().click();
await page.getByText('The whole conversation').waitFor();
const whole = await page.locator('#found-list').innerText();
await page.locator('#words').fill('"% * NEAR(');
await page.keyboard.press('Enter');
await page.getByText('0 messages with').waitFor();
await page.locator('#found-close').click();
await page.getByRole('button', { name: /look at the mailbox of codex/ }).click();
await page.locator('#mailbox-list li').first().waitFor();
const mailbox = await page.locator('#mailbox').innerText();
await shot('mailbox');
await page.keyboard.press('Escape');
await page.getByRole('button', { name: /^Show all of the message from codex/ }).click();
await page.getByText('The whole conversation').waitFor();
const long = await page.locator('#found-list .text').innerText();
await page.locator('#found-close').click();
await step({ folded, whole, mailbox, long });

// A reload needs no second link; another browser has no session.
await page.reload();
await page.locator('#peers .name').first().waitFor();
const stranger = await (await browser.newContext()).newPage();
await stranger.goto(new URL(link).origin);
await stranger.locator('#door').waitFor();
await stranger.getByText('Not connected').waitFor();
const outside = await stranger.locator('body').innerText();
await stranger.goto(link);
await stranger.getByText('used before').waitFor();
await step({ outside, used: stranger.url() });

// Rows that are scrolled away in a list leave no blank space below the page.
await page.locator('#message-list').getByText('row 40', { exact: true }).waitFor();
const blank = await page.evaluate(() => document.documentElement.scrollHeight - document.body.offsetHeight);

// Nothing is cut off on a phone, and the page is accessible.
await page.setViewportSize({ width: 360, height: 740 });
const wide = await page.evaluate(() => document.documentElement.scrollWidth);
await shot('phone');
await page.emulateMedia({ colorScheme: 'dark' });
await shot('dark');
const strict = trouble.splice(0);
const judge = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const faults = [];
for (const [colorScheme, width] of [['light', 1280], ['dark', 360]]) {
  const judged = await judge.newPage();
  await judged.emulateMedia({ colorScheme });
  await judged.setViewportSize({ width, height: 900 });
  await judged.goto(new URL(link).origin);
  await judged.locator('#peers .name').first().waitFor();
  await judged.evaluate(readFileSync(new URL('./node_modules/axe-core/axe.min.js', import.meta.url), 'utf8'));
  const { violations } = await judged.evaluate('axe.run()');
  faults.push(...violations.map((fault) => `${colorScheme}: ${fault.help}: ${fault.nodes[0].html}`));
}
await step({ blank, wide, trouble: strict, foreign, faults });
await browser.close();
process.exit(0);
