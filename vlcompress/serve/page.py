"""The interactive page: one document that asks nobody but its own server, so it works offline."""

import base64
import hashlib

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vlcompress.serve.page_script import SCRIPT
from vlcompress.serve.page_style import CSS

_BODY = """
<a class="skip" href="#question">Skip to the question</a>
<header>
  <h1>Ask about a picture</h1>
  <p class="soft">Pick a picture, ask about it, and see the answer with the time it took. Everything runs on this
  server.</p>
</header>
<main>
  <p class="error wide" id="error" role="alert" hidden></p>
  <section class="card wide" id="locked" aria-labelledby="locked-title" hidden>
    <h2 id="locked-title">This server asks for a token</h2>
    <form id="unlock"><label for="token">Token</label><span class="row"><input type="password" id="token"
      autocomplete="off"><button class="main">Go on</button></span></form>
    <p class="soft" style="margin:.6rem 0 0">It stays in this tab, and is sent to this server alone.</p>
  </section>
  <div class="stack">
    <section class="card" id="pictures" hidden aria-labelledby="pictures-title">
      <h2 id="pictures-title">1. A picture</h2>
      <div class="gallery" id="gallery" role="group" aria-label="Built-in pictures"></div>
      <p style="margin-top:.9rem"><label for="upload">or your own</label>
      <input type="file" id="upload" accept="image/jpeg,image/png,image/webp"></p>
      <p class="note" id="upload-note" hidden>The model has only ever seen drawn shapes like those above. The picture is
      stretched to 128 &times; 96, and whatever stands out from the ground is a region. About anything else the model
      can only guess among its answers.</p>
    </section>
    <section class="card" id="ask" hidden aria-labelledby="ask-title">
      <h2 id="ask-title">2. A question</h2>
      <form id="form">
        <p><label for="question">Question</label>
        <span class="row"><input type="text" id="question" maxlength="300" autocomplete="off"
          placeholder="What color is the star?"><button class="main" id="go">Ask</button></span></p>
        <div class="chips" id="chips" role="group" aria-label="Questions asked about this picture"></div>
        <p style="margin:.9rem 0 0"><label for="model">Model</label>
        <span class="row"><select id="model"></select></span></p>
      </form>
    </section>
    <section class="card" id="nothing" hidden>
      <h2>Nothing to ask here</h2>
      <p id="nothing-text"></p>
      <p class="soft">Tensors are answered at <code>/v2/models/NAME/infer</code>, features at <code>/v1/vqa</code>.</p>
    </section>
  </div>
  <section class="card" id="answer" hidden aria-labelledby="answer-title">
    <h2 id="answer-title">3. The answer</h2>
    <div class="stage"><img id="shown" alt="" src="data:,"><svg id="boxes" viewBox="0 0 1 1"
      preserveAspectRatio="none" aria-hidden="true"></svg></div>
    <div aria-live="polite" style="margin-top:1rem">
      <p class="soft" id="waiting">Ask something: the answer comes here.</p>
      <div id="result" hidden>
        <p class="soft" id="asked"></p>
        <p class="best" id="best"></p>
        <p id="speed"></p>
        <p class="soft">The five likeliest answers. Each score is a probability of its own: they need not add up.</p>
        <ol class="answers" id="answers"></ol>
        <dl id="facts"></dl>
        <p class="note" id="note" hidden></p>
      </div>
    </div>
  </section>
</main>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


DOCUMENT = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>Ask about a picture</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n'
    f"<body>{_BODY}<script>{SCRIPT}</script></body></html>\n"
)

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Only this page's own script runs, and it may talk to this server alone."""


async def page(request: Request) -> Response:
    """``GET /``."""
    return HTMLResponse(DOCUMENT, headers=HEADERS)
