from vlcompress.report.markup import code, facts_table, figure, listing, paragraph, section, table

EVIL = '<img src=x onerror="y">'


def test_text_is_escaped_everywhere() -> None:
    page = "".join(
        [
            paragraph(EVIL),
            listing([EVIL]),
            code(EVIL),
            table([EVIL], [[EVIL]]),
            facts_table({EVIL: EVIL}),
            section(EVIL),
            figure("", EVIL),
        ]
    )
    assert "<img" not in page
    assert page.count("&lt;img") == 9


def test_commands_between_backticks_are_set_as_code() -> None:
    assert paragraph("run `vlcompress bench`") == "<p>run <code>vlcompress bench</code></p>"


def test_numbers_stand_to_the_right() -> None:
    assert '<td class="text">a</td><td class="number">1</td>' in table(("name", "n"), [("a", "1")])


def test_facts_leave_out_what_is_missing_and_join_what_is_nested() -> None:
    found = facts_table({"gpu": None, "packages": {"torch": "2.13"}, "memory_bytes": 16000000})
    assert "gpu" not in found
    assert "torch 2.13" in found
    assert "memory bytes" in found
    assert "16,000,000" in found
