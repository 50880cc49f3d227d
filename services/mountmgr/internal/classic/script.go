package classic

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// command is the mount command of a mount pod's script.
type command struct {
	// enterprise tells which client it is.
	enterprise bool
	// path is the mount point as the pod sees it.
	path string
	// options are those of -o.
	options string
	// format is the command before it: juicefs format or juicefs auth, with its
	// flags; nil when there is none.
	format []string
}

// parseScript finds the mount command in the script of a mount pod. The script
// is data: nothing of it is ever executed here, and its variables stay as they
// are written.
func parseScript(script string) (command, error) {
	var found command
	for line := range strings.SplitSeq(script, "\n") {
		words, err := splitWords(line)
		if err != nil {
			return command{}, err
		}
		if at := slices.IndexFunc(words, isMountProgram); at >= 0 && len(words) >= at+3 {
			found.enterprise = path.Dir(words[at]) == "/sbin"
			found.path = words[at+2]
			if option := slices.Index(words[at:], "-o"); option >= 0 && len(words) > at+option+1 {
				found.options = words[at+option+1]
			}
			return found, nil
		}
		at := slices.IndexFunc(words, func(word string) bool { return word == "format" || word == "auth" })
		if at > 0 {
			found.format = words[at-1:]
		}
	}
	return command{}, fmt.Errorf("the mount pod's command holds no mount.juicefs: %w", errdefs.ErrInvalidArgument)
}

func isMountProgram(word string) bool { return path.Base(word) == "mount.juicefs" }

// words splits a line as a shell does into words, without expanding anything.
type words struct {
	list    []string
	current strings.Builder
	inWord  bool
}

func (w *words) add(text string) {
	w.current.WriteString(text)
	w.inWord = true
}

func (w *words) end() {
	if w.inWord {
		w.list = append(w.list, w.current.String())
	}
	w.current.Reset()
	w.inWord = false
}

// splitWords understands blanks, backslashes and the quotes ”, "" and $”.
func splitWords(line string) ([]string, error) {
	var w words
	for line != "" {
		var err error
		if line, err = w.take(line); err != nil {
			return nil, err
		}
	}
	w.end()
	return w.list, nil
}

// take reads one element of line and returns the rest.
func (w *words) take(line string) (string, error) {
	switch {
	case line[0] == ' ' || line[0] == '\t':
		w.end()
		return line[1:], nil
	case line[0] == '\\' && len(line) > 1:
		w.add(line[1:2])
		return line[2:], nil
	case line[0] == '\'':
		return w.quoted(line[1:], '\'', "")
	case strings.HasPrefix(line, "$'"):
		return w.quoted(line[2:], '\'', "\\'nrt\"")
	case line[0] == '"':
		return w.quoted(line[1:], '"', "\\\"$`")
	}
	w.add(line[:1])
	return line[1:], nil
}

// quoted reads until end; a backslash takes one of escapes literally.
func (w *words) quoted(line string, end byte, escapes string) (string, error) {
	w.add("")
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == end:
			return line[i+1:], nil
		case line[i] == '\\' && i+1 < len(line) && strings.IndexByte(escapes, line[i+1]) >= 0:
			i++
			w.add(unescape(line[i], end))
		default:
			w.add(line[i : i+1])
		}
	}
	return "", fmt.Errorf("the mount pod's command has a quote without end: %w", errdefs.ErrInvalidArgument)
}

// unescape is what a letter after a backslash means; in "" it means itself.
func unescape(letter, end byte) string {
	if end == '\'' {
		switch letter {
		case 'n':
			return "\n"
		case 'r':
			return "\r"
		case 't':
			return "\t"
		}
	}
	return string(letter)
}

// quote makes one word of a shell of any text. What is special to no shell stays
// as it is, since the existing driver splits the command at blanks only; in
// single quotes nothing is special but the quote itself.
func quote(text string) string {
	if regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`).MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func quoteAll(argv []string) string {
	quoted := make([]string, len(argv))
	for i, argument := range argv {
		quoted[i] = quote(argument)
	}
	return strings.Join(quoted, " ")
}
