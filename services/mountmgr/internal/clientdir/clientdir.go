// Package clientdir finds the JuiceFS client of a mount image in a host
// directory, for clients that run without a pod.
package clientdir

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Path is the directory below dir that holds what is needed of image, at the
// paths that it has in the image: every character of the reference that is not
// a letter, digit, dot or hyphen is an underscore.
func Path(dir, image string) (string, error) {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '_'
	}, image)
	if strings.Trim(name, ".") == "" {
		return "", fmt.Errorf("image %q is no image reference: %w", image, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(dir, name), nil
}
