// Package apiversion says whether two services understand each other.
package apiversion

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Range is the span of contract versions that a program speaks.
type Range struct {
	// Version is the newest.
	Version uint32
	// MinVersion is the oldest.
	MinVersion uint32
}

// MountManager is what this release speaks of juicefs.csi.mountmgr.v1.
func MountManager() Range { return Range{Version: 1, MinVersion: 1} }

// Vault is what this release speaks of juicefs.csi.vault.v1.
func Vault() Range { return Range{Version: 1, MinVersion: 1} }

// Launch is what this release speaks of juicefs.csi.launch.v1.
func Launch() Range { return Range{Version: 1, MinVersion: 1} }

// Check fails with errdefs.ErrFailedPrecondition when the two spans do not
// overlap; the text says which side must be upgraded.
func (r Range) Check(peer Range) error {
	switch {
	case peer.Version < r.MinVersion:
		return fmt.Errorf("peer speaks contract version %d, at least %d is needed: upgrade the peer: %w",
			peer.Version, r.MinVersion, errdefs.ErrFailedPrecondition)
	case peer.MinVersion > r.Version:
		return fmt.Errorf("peer needs contract version %d, this release speaks %d: upgrade this service: %w",
			peer.MinVersion, r.Version, errdefs.ErrFailedPrecondition)
	}
	return nil
}
