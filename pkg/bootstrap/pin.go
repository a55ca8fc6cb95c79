package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
)

// Pin is the SHA-256 of a CA's SubjectPublicKeyInfo (RFC 7469 2.4), as "sha256:<hex>".
type Pin [sha256.Size]byte

// ParsePin reads "sha256:<64 hex digits>".
func ParsePin(text string) (Pin, error) {
	digits, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != sha256.Size {
		return Pin{}, fail(CodeTrust, "copy the hash from the output of: kubeadm token create --print-join-command",
			"reading CA hash %q: it must be sha256: and 64 hex digits", text)
	}
	return Pin(b), nil
}

// PinOf is the pin of a certificate.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

func pinTexts(pins []Pin) string {
	texts := make([]string, len(pins))
	for i, p := range pins {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

func pinsOf(certs []*x509.Certificate) []Pin {
	pins := make([]Pin, len(certs))
	for i, c := range certs {
		pins[i] = PinOf(c)
	}
	return pins
}

// pinned returns the certificates whose pin is among pins.
func pinned(certs []*x509.Certificate, want []Pin) []*x509.Certificate {
	var found []*x509.Certificate
	for _, c := range certs {
		if slices.Contains(want, PinOf(c)) {
			found = append(found, c)
		}
	}
	return found
}

// parseCAs reads the certificates of a PEM bundle; each must be a CA.
func parseCAs(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := bytes.TrimSpace(bundle)
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("reading CA bundle: after %d certificates there is something that is not PEM", len(certs))
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading CA bundle: %w", err)
		}
		if !c.IsCA {
			return nil, fmt.Errorf("reading CA bundle: certificate of %q is not a CA", c.Subject)
		}
		certs = append(certs, c)
		rest = bytes.TrimSpace(rest)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("reading CA bundle: it holds no certificate")
	}
	return certs, nil
}

// MarshalText and UnmarshalText give pins their text in JSON and YAML.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *Pin) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePin(string(text))
	return err
}
