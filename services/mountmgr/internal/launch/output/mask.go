package output

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

const (
	// masked stands in for a secret.
	masked = "***"
	// shortestSecret keeps "1", "true" or "UTC" from making logs unreadable.
	shortestSecret = 5
)

// Mask removes secrets from text. The zero value knows none, but removes the
// passwords of URLs.
type Mask struct {
	replacer *strings.Replacer
}

// NewMask returns a mask for values. Values of several lines, keys for example,
// are masked line by line; values that are URLs lose their passwords too where
// these stand alone. Values shorter than five bytes are left alone.
func NewMask(values ...string) *Mask {
	var secrets []string
	for _, value := range values {
		for line := range strings.Lines(value) {
			secrets = append(secrets, strings.TrimSpace(line))
		}
		if location, err := url.Parse(value); err == nil && location.User != nil {
			if password, set := location.User.Password(); set {
				secrets = append(secrets, password, url.QueryEscape(password), url.PathEscape(password))
			}
		}
	}
	slices.SortFunc(secrets, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	var pairs []string
	for _, secret := range slices.Compact(secrets) {
		if len(secret) >= shortestSecret {
			pairs = append(pairs, secret, masked)
		}
	}
	return &Mask{replacer: strings.NewReplacer(pairs...)}
}

// Apply returns text without the secrets.
func (m *Mask) Apply(text string) string {
	if m != nil && m.replacer != nil {
		text = m.replacer.Replace(text)
	}
	return maskURLs(text)
}

// maskURLs removes the password of every scheme://user:password@host.
func maskURLs(text string) string {
	var result strings.Builder
	for {
		before, rest, found := strings.Cut(text, "://")
		result.WriteString(before)
		if !found {
			return result.String()
		}
		result.WriteString("://")
		text = rest
		// A password may hold slashes and at signs, so the last one counts.
		end := strings.IndexAny(rest, " \t\"'`<>")
		if end < 0 {
			end = len(rest)
		}
		at := strings.LastIndexByte(rest[:end], '@')
		colon := strings.IndexByte(rest[:max(at, 0)], ':')
		if colon >= 0 {
			result.WriteString(rest[:colon+1] + masked)
			text = rest[at:]
		}
	}
}
