"""The addresses that we hand out; all of them start with the public URL, which may have a path."""

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Links:
    """`public_url` without a slash at its end."""

    public_url: str

    def file(self, link: str, name: str) -> str:
        """The permanent link of an archived output."""
        return f"{self.public_url}/files/{link}/{quote(name)}"

    def webhook(self, token: str) -> str:
        """Where Replicate calls us about one prediction."""
        return f"{self.public_url}/webhooks/replicate/{token}"

    def token(self, webhook: object) -> str | None:
        """The token in such an address, told back to us; None for any other."""
        before, slash, token = webhook.rpartition("/") if isinstance(webhook, str) else ("", "", "")
        return token if slash and token and f"{before}/{token}" == self.webhook(token) else None

    def api(self, path: str) -> str:
        """A path of Replicate's API (`/predictions/…`) as spoken by us."""
        return f"{self.public_url}/v1{path}"

    def schema(self, event_type: str) -> str:
        """The JSON Schema of an event's data."""
        return f"{self.public_url}/schemas/{event_type.removeprefix('outkeep.')}/1.json"
