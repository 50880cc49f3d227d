// Package endpoint reads the addresses at which gRPC services listen, and
// listens on them.
package endpoint

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// The kinds of endpoint, in the words of package net.
const (
	Unix = "unix"
	TCP  = "tcp"
)

// maxSocketPath is the longest path of a unix socket in bytes: sun_path of
// unix(7) has 108 bytes, and one of them ends the string.
const maxSocketPath = 107

// Endpoint is where a service listens.
type Endpoint struct {
	// Network is Unix or TCP.
	Network string
	// Address is an absolute path for Unix, host:port for TCP.
	Address string
}

// Parse reads unix:///path or tcp://host:port; the host may be empty. It fails
// with errdefs.ErrInvalidArgument, also for a path that is longer than a unix
// socket can have.
func Parse(text string) (Endpoint, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return Endpoint{}, fmt.Errorf("endpoint %q is neither unix:///path nor tcp://host:port: %w", text, errdefs.ErrInvalidArgument)
	}
	switch scheme {
	case Unix:
		switch {
		case !filepath.IsAbs(rest) || rest != filepath.Clean(rest) || rest == "/":
			return Endpoint{}, fmt.Errorf("endpoint %q: the path must be absolute and clean (unix:///path): %w", text, errdefs.ErrInvalidArgument)
		case len(rest) > maxSocketPath:
			return Endpoint{}, fmt.Errorf("endpoint %q: the path has %d bytes, a unix socket can have %d: %w",
				text, len(rest), maxSocketPath, errdefs.ErrInvalidArgument)
		}
		return Endpoint{Network: Unix, Address: rest}, nil
	case TCP:
		if _, _, err := net.SplitHostPort(rest); err != nil {
			return Endpoint{}, fmt.Errorf("endpoint %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		return Endpoint{Network: TCP, Address: rest}, nil
	default:
		return Endpoint{}, fmt.Errorf("endpoint %q: unknown scheme %q, use unix or tcp: %w", text, scheme, errdefs.ErrInvalidArgument)
	}
}

// String is what Parse reads.
func (e Endpoint) String() string { return e.Network + "://" + e.Address }
