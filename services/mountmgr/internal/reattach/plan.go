package reattach

import (
	"slices"
	"strings"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// action is what has to be done with a mount of a lost connection.
type action int

const (
	// swap puts the new connection in its place.
	swap action = iota
	// uncover takes it away: an attempt before has put the new one beneath it.
	uncover
	// restrict gives the new one, which covers it, its attributes: that came by
	// a mount event from elsewhere.
	restrict
)

// step is one mount of a lost connection that is visible.
type step struct {
	action action
	mount  mountinfo.Entry
	// inner are mounts of lost connections inside of it.
	inner []mountinfo.Entry
	// cover is the mount to restrict.
	cover mountinfo.Entry
}

// plan lists what is to be done with the mounts of a namespace, at paths or
// everywhere when that is nil, and what cannot be done.
func plan(entries []mountinfo.Entry, connection Connection, paths []string) ([]step, []Left) {
	var steps []step
	var left []Left
	for _, entry := range entries {
		if !connection.shows(entry) || paths != nil && !slices.Contains(paths, entry.Path) {
			continue
		}
		if isInner(entries, connection, entry) {
			continue // Goes with the one that it is in.
		}
		next, reason, needed := stepFor(entries, connection, entry)
		switch {
		case reason != "":
			left = append(left, Left{Path: entry.Path, Reason: reason})
		case needed:
			steps = append(steps, next)
		}
	}
	return steps, left
}

func stepFor(entries []mountinfo.Entry, connection Connection, entry mountinfo.Entry) (next step, reason string, needed bool) {
	next = step{mount: entry}
	for _, other := range entries {
		switch {
		case other.Parent == entry.ID && other.Path == entry.Path:
			// Covered: only what covers it counts.
			next.action, next.cover = restrict, other
			return next, "", connection.isNew(other) && lacks(other, attributes(entry))
		case other.Parent == entry.ID:
			if !connection.shows(other) || hasInner(entries, other) {
				return next, "another volume is mounted inside of it, at " + other.Path, false
			}
			next.inner = append(next.inner, other)
		case other.ID == entry.Parent && other.Path == entry.Path && connection.isNew(other):
			next.action = uncover
		}
	}
	return next, "", true
}

// isInner tells whether a mount is attached inside a mount of a lost
// connection.
func isInner(entries []mountinfo.Entry, connection Connection, entry mountinfo.Entry) bool {
	return slices.ContainsFunc(entries, func(parent mountinfo.Entry) bool {
		return parent.ID == entry.Parent && parent.Path != entry.Path && connection.shows(parent)
	})
}

func hasInner(entries []mountinfo.Entry, entry mountinfo.Entry) bool {
	return slices.ContainsFunc(entries, func(other mountinfo.Entry) bool { return other.Parent == entry.ID })
}

// attributes are those that a clone has to keep.
func attributes(entry mountinfo.Entry) kernelmount.Attributes {
	has := func(option string) bool { return slices.Contains(entry.Options, option) }
	return kernelmount.Attributes{ReadOnly: has("ro"), NoSUID: has("nosuid"), NoDev: has("nodev"), NoExec: has("noexec")}
}

// lacks tells whether a mount is without one of the attributes.
func lacks(entry mountinfo.Entry, wanted kernelmount.Attributes) bool {
	has := attributes(entry)
	return wanted.ReadOnly && !has.ReadOnly || wanted.NoSUID && !has.NoSUID ||
		wanted.NoDev && !has.NoDev || wanted.NoExec && !has.NoExec
}

// deleted is what the kernel adds to the name of a file that it knows by no
// path any more. After the end of a connection that says nothing of the file.
const deleted = "//deleted"

// inside is the path of what a mount shows, from the root of its file system;
// "" for the root itself.
func inside(entry mountinfo.Entry) string {
	return strings.TrimPrefix(strings.TrimSuffix(entry.Root, deleted), "/")
}
