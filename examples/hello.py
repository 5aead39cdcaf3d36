"""One task that fails at first: see README.md for what to do with it."""

from foliot import Context, Foliot, Retry

app = Foliot("hello")


@app.task(retry=Retry(base="2s", jitter=False))
def greet(ctx: Context, name: str, language: str = "en") -> str:
    if ctx.attempt == 1:
        raise ConnectionError("the line was busy")  # every first attempt fails, the next one does not
    greetings = {"en": "hello", "fr": "bonjour", "de": "guten Tag"}
    return f"{greetings[language]}, {name}"  # a KeyError for any other language, however often it is tried
