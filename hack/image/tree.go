package main

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// entry is a file, directory or symbolic link of an image; it belongs to root.
type entry struct {
	// mode holds the permission bits, as chmod(1) takes them.
	mode int64
	// link is the target of a symbolic link.
	link string
	// source is the file on this machine to copy.
	source string
	// content is the content of a file without a source.
	content string
	kind    byte
}

// tree is the file system of an image, by path without a leading slash.
type tree map[string]entry

// clean gives the key of an absolute path inside the image.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// put adds an entry and the directories above it.
func (t tree) put(name string, e entry) {
	name = clean(name)
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t[dir]; !ok {
			t[dir] = entry{kind: tar.TypeDir, mode: 0o755}
		}
	}
	t[name] = e
}

// dir adds a directory.
func (t tree) dir(name string, mode int64) { t.put(name, entry{kind: tar.TypeDir, mode: mode}) }

// file adds a copy of a file of this machine.
func (t tree) file(name, source string, mode int64) {
	t.put(name, entry{kind: tar.TypeReg, mode: mode, source: source})
}

// text adds a file with the given content.
func (t tree) text(name, content string) {
	t.put(name, entry{kind: tar.TypeReg, mode: 0o644, content: content})
}

// link adds a symbolic link.
func (t tree) link(name, target string) {
	t.put(name, entry{kind: tar.TypeSymlink, mode: 0o777, link: target})
}

// check fails for an entry below something that is not a directory: a runtime
// would put it elsewhere or refuse it.
func (t tree) check() error {
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if t[dir].kind != tar.TypeDir {
				return fmt.Errorf("/%s lies below /%s, which is not a directory", name, dir)
			}
		}
	}
	return nil
}

// writeTar writes the tree as a tar archive: sorted, without times, so that
// equal trees give equal bytes.
func (t tree) writeTar(w io.Writer) error {
	if err := t.check(); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if err := writeEntry(archive, name, t[name]); err != nil {
			return fmt.Errorf("write /%s: %w", name, err)
		}
	}
	return archive.Close()
}

func writeEntry(archive *tar.Writer, name string, e entry) error {
	header := &tar.Header{
		Typeflag: e.kind,
		Name:     name,
		Linkname: e.link,
		Mode:     e.mode,
		ModTime:  time.Unix(0, 0),
		Format:   tar.FormatPAX,
	}
	if e.kind == tar.TypeDir {
		header.Name += "/"
	}
	if e.source == "" {
		header.Size = int64(len(e.content))
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.WriteString(archive, e.content)
		return err
	}
	source, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, source)
	return err
}
