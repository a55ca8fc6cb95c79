package bootstrap

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
)

// Token is a bootstrap token, "abcdef.0123456789abcdef". No format prints its secret.
type Token struct{ id, secret string }

const tokenNext = "kubeadm token create --print-join-command   (on a control-plane node)"

// ParseToken reads a token; white space around it is ignored. The error does not repeat the text.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(text) {
		return Token{}, fail(CodeToken, tokenNext,
			"reading the token: it must look like abcdef.0123456789abcdef (6 and 16 of a-z, 0-9); %d characters were given", len(text))
	}
	return Token{text[:6], text[7:]}, nil
}

// ID is the public half.
func (t Token) ID() string { return t.id }

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.id == "" }

func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	return t.id + ".****************"
}

// GoString keeps %#v from printing the secret.
func (t Token) GoString() string { return t.String() }

// LogValue keeps slog from printing the secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON keeps JSON from printing the secret.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

func (t Token) bearer() string { return t.id + "." + t.secret }
