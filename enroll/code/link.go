package code

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrLink reports text that is no enrollment link.
var ErrLink = errors.New("not an enrollment link: want https://HOST/enroll#CODE.ROOT")

// Link writes what a QR code or a link carries: the gateway's URL, the code, and the
// SHA-256 of the root in hexadecimal. Code and fingerprint stand in the fragment, which
// is never sent to a server.
func Link(server, code, root string) string {
	return strings.TrimSuffix(server, "/") + "/enroll#" + code + "." + root
}

// ParseLink reads what Link wrote. Errors never echo the link.
func ParseLink(text string) (server string, c Code, root []byte, err error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.TrimSuffix(u.Path, "/enroll") != "" || u.User != nil || u.RawQuery != "" {
		return "", Code{}, nil, ErrLink
	}
	symbols, sum, ok := strings.Cut(u.Fragment, ".")
	if !ok {
		return "", Code{}, nil, ErrLink
	}
	if c, err = Parse(symbols); err != nil {
		return "", Code{}, nil, fmt.Errorf("reading the link: %w", err)
	}
	if root, err = hex.DecodeString(sum); err != nil || len(root) != 32 {
		return "", Code{}, nil, ErrLink
	}
	return "https://" + u.Host, c, root, nil
}
