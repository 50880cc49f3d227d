package volume

import (
	"encoding/hex"
	"errors"
	"strings"
)

// metaURL is the address of a metadata engine without its password.
type metaURL struct {
	address  string
	password string
}

var errMetaURL = errors.New("is not an address of a metadata engine, which looks like redis://host:6379/1")

// parseMetaURL takes the password out of the address, because arguments of a
// process can be read by anybody on its node. The client takes META_PASSWORD
// for Redis, MySQL and PostgreSQL (pkg/meta/interface.go and redis.go of
// JuiceFS 1.0 and later); for other engines the address stays as it is.
// Without a scheme it is Redis, as the client takes it. Errors never hold the
// address.
func parseMetaURL(text string) (metaURL, error) {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsAny(text, " \t\r\n\x00") {
		return metaURL{}, errMetaURL
	}
	if !strings.Contains(text, "://") {
		text = "redis://" + text
	}
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme == "" || rest == "" {
		return metaURL{}, errMetaURL
	}
	switch scheme {
	case "redis", "rediss", "unix", "postgres", "mysql":
		return cutPassword(scheme, rest), nil
	}
	return metaURL{address: text}, nil
}

// cutPassword splits user:password@host. The last @ before the path ends the
// password, as the client's MySQL driver has it, since a password may hold
// that character unescaped.
func cutPassword(scheme, rest string) metaURL {
	whole := metaURL{address: scheme + "://" + rest}
	end := len(rest)
	if scheme != "mysql" {
		if slash := strings.IndexAny(rest, "/?"); slash >= 0 {
			end = slash
		}
	}
	at := strings.LastIndex(rest[:end], "@")
	if at < 0 {
		return whole
	}
	user, password, found := strings.Cut(rest[:at], ":")
	if !found || password == "" {
		return whole
	}
	// Older clients look for ":@"; newer ones take user@ and user:@ alike.
	return metaURL{address: scheme + "://" + user + ":" + rest[at:], password: percentDecoded(password)}
}

// percentDecoded replaces %XX. A text that is not encoded so stays as it is, as
// the client takes it.
func percentDecoded(text string) string {
	var decoded strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			decoded.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return text
		}
		value, err := hex.DecodeString(text[i+1 : i+3])
		if err != nil {
			return text
		}
		decoded.Write(value)
		i += 2
	}
	return decoded.String()
}
