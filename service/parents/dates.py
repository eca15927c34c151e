"""Dates in the reader's language: short weekdays and months as the Unicode CLDR writes them."""

from datetime import date
from typing import Final, NamedTuple


class Language(NamedTuple):
    """Monday to Sunday, January to December, and a day's form; `{number}` is the month's."""

    weekdays: list[str]
    months: list[str]
    form: str


def _language(weekdays: str, months: str, form: str) -> Language:
    return Language(weekdays.split(), months.split(), form)


DEFAULT: Final = "en"
LANGUAGES: Final = {
    "en": _language(
        "Mon Tue Wed Thu Fri Sat Sun",
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        "{weekday}, {month} {day}",
    ),
    "en-gb": _language(
        "Mon Tue Wed Thu Fri Sat Sun",
        "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec",
        "{weekday} {day} {month}",
    ),
    "ar": _language(
        "الاثنين الثلاثاء الأربعاء الخميس الجمعة السبت الأحد",
        "يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر",
        "{weekday}، {day} {month}",
    ),
    "de": _language(
        "Mo. Di. Mi. Do. Fr. Sa. So.",
        "Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez.",
        "{weekday}, {day}. {month}",
    ),
    "es": _language(
        "lun mar mié jue vie sáb dom",
        "ene feb mar abr may jun jul ago sept oct nov dic",
        "{weekday}, {day} {month}",
    ),
    "fr": _language(
        "lun. mar. mer. jeu. ven. sam. dim.",
        "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
        "{weekday} {day} {month}",
    ),
    "it": _language(
        "lun mar mer gio ven sab dom",
        "gen feb mar apr mag giu lug ago set ott nov dic",
        "{weekday} {day} {month}",
    ),
    "ja": _language("月 火 水 木 金 土 日", "", "{number}月{day}日({weekday})"),
    "nl": _language(
        "ma di wo do vr za zo",
        "jan feb mrt apr mei jun jul aug sep okt nov dec",
        "{weekday} {day} {month}",
    ),
    "pl": _language(
        "pon. wt. śr. czw. pt. sob. niedz.",
        "sty lut mar kwi maj cze lip sie wrz paź lis gru",
        "{weekday}, {day} {month}",
    ),
    "pt": _language(
        "seg. ter. qua. qui. sex. sáb. dom.",
        "jan. fev. mar. abr. mai. jun. jul. ago. set. out. nov. dez.",
        "{weekday}, {day} de {month}",
    ),
    "zh": _language("周一 周二 周三 周四 周五 周六 周日", "", "{number}月{day}日{weekday}"),
}


def weekday(day: date, language: str) -> str:
    """The day of the week, in one of LANGUAGES."""
    return LANGUAGES[language].weekdays[day.weekday()]


def weekday_and_day(day: date, language: str) -> str:
    """The day of the week, of the month, and the month, as one of LANGUAGES puts them."""
    months = LANGUAGES[language].months
    return LANGUAGES[language].form.format(
        weekday=weekday(day, language),
        day=day.day,
        month=months[day.month - 1] if months else "",
        number=day.month,
    )
