package manager

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	idBytes     = 8
	suffixLen   = 6
	maxPathName = 128
)

// randomID names a mount; it is never used again.
func randomID() string {
	raw := make([]byte, idBytes)
	_, _ = rand.Read(raw) // Never fails: see crypto/rand.
	return hex.EncodeToString(raw)
}

// randomSuffix is six lower-case letters, as the existing driver appends to
// the names of mount pods and mount points.
func randomSuffix() string {
	raw := make([]byte, suffixLen)
	_, _ = rand.Read(raw) // Never fails: see crypto/rand.
	for i, b := range raw {
		raw[i] = 'a' + b%26
	}
	return string(raw)
}

// pathName makes one path component of a unique id, which is a volume handle
// that anybody may have chosen.
func pathName(uniqueID string) string {
	cleaned := strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 0x7f {
			return '-'
		}
		return r
	}, uniqueID)
	if len(cleaned) > maxPathName || cleaned != uniqueID || strings.HasPrefix(cleaned, ".") {
		digest := sha256.Sum256([]byte(uniqueID))
		cleaned = strings.TrimLeft(cleaned, ".")
		cleaned = cleaned[:min(len(cleaned), maxPathName)] + "-" + hex.EncodeToString(digest[:4])
	}
	return cleaned
}
