package clientdir

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// clientProgram is where every mount image has its client.
	clientProgram = "/usr/local/bin/juicefs"
	// mountProgram is the name under which the client mounts.
	mountProgram = "/bin/mount.juicefs"
	// certificates is where the copy has them, whatever the image calls them.
	certificates = "/etc/ssl/certs/ca-certificates.crt"
	libraryCache = "/etc/ld.so.cache"
)

// Copy copies the client of the image whose root is root, with the shared
// libraries that it needs and the certificates that it trusts, to the directory
// of the image below dir. It appears at once when it is whole. One that is there
// stays when its client has the same size and time; one that is replaced leaves
// running clients alone.
func Copy(root, dir, image string) error {
	target, err := Path(dir, image)
	if err != nil {
		return err
	}
	if same(filepath.Join(root, clientProgram), filepath.Join(target, clientProgram)) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Clients of any user run what is in it.
		return fmt.Errorf("copy client: %w", err)
	}
	if err := removeUnfinished(dir); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(dir, unfinished)
	if err != nil {
		return fmt.Errorf("copy client: %w", err)
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	err = errors.Join(os.Chmod(temporary, 0o755), copier{root: root, target: temporary}.all()) //nolint:gosec // see above
	if err == nil {
		err = replace(temporary, target)
	}
	if err != nil {
		return fmt.Errorf("copy client of image %s to %s: %w", image, target, err)
	}
	return nil
}

// unfinished begins the names of copies that are not whole.
const unfinished = ".copy-"

// removeUnfinished removes what a copy has left that was killed.
func removeUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("remove an unfinished copy: %w", err)
	}
	return nil
}

// same tells whether two files are most likely the same.
func same(one, other string) bool {
	a, err := os.Stat(one)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// replace puts a directory in the place of another, which must have another
// name for a moment.
func replace(made, target string) error {
	old := made + ".old"
	if err := os.Rename(target, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(made, target); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// copier copies files to the same paths below another root.
type copier struct{ root, target string }

func (c copier) all() error {
	if err := c.program(clientProgram); err != nil {
		return err
	}
	link := filepath.Join(c.target, mountProgram)
	err := os.MkdirAll(filepath.Dir(link), 0o755) //nolint:gosec // as in an image
	if err == nil {
		err = os.Symlink(clientProgram, link)
	}
	if err != nil {
		return err
	}
	// The places at which Go programs look.
	for _, name := range []string{
		certificates, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	} {
		err := c.file(name, certificates)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// file copies a file; links are followed.
func (c copier) file(name, as string) error {
	source, err := os.Open(filepath.Join(c.root, name))
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	path := filepath.Join(c.target, as)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as in an image
		return err
	}
	target, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if errors.Is(err, fs.ErrExist) {
		return nil // Two programs need it.
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// program copies a program and, where it is not static, its loader, its
// libraries and the cache by which the loader finds them.
func (c copier) program(name string) error {
	if err := c.file(name, name); err != nil {
		return err
	}
	needed, err := c.needs(name)
	if err != nil {
		return err
	}
	if len(needed) == 0 {
		return nil
	}
	if err := c.file(libraryCache, libraryCache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	done := make(map[string]bool)
	for len(needed) > 0 {
		library := needed[0]
		needed = needed[1:]
		if done[library] {
			continue
		}
		done[library] = true
		if err := c.file(library, library); err != nil {
			return err
		}
		more, err := c.needs(library)
		if err != nil {
			return err
		}
		needed = append(needed, more...)
	}
	return nil
}

// needs returns the paths of the loader and of the libraries of an ELF file.
func (c copier) needs(name string) ([]string, error) {
	file, err := elf.Open(filepath.Join(c.root, name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	var needed []string
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			text, err := io.ReadAll(segment.Open())
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", name, err)
			}
			needed = append(needed, strings.TrimRight(string(text), "\x00"))
		}
	}
	libraries, err := file.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	dirs := append(runPath(file, name), c.libraryDirs()...)
	for _, library := range libraries {
		index := slices.IndexFunc(dirs, func(dir string) bool {
			_, err := os.Stat(filepath.Join(c.root, dir, library))
			return err == nil
		})
		if index < 0 {
			return nil, fmt.Errorf("%s needs %s, which is not in the image: %w", name, library, fs.ErrInvalid)
		}
		needed = append(needed, filepath.Join(dirs[index], library))
	}
	return needed, nil
}

// runPath is where an ELF file says that its libraries are.
func runPath(file *elf.File, name string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		texts, _ := file.DynString(tag) // A static program has none.
		for _, text := range texts {
			text = strings.ReplaceAll(text, "${ORIGIN}", "$ORIGIN")
			dirs = append(dirs, strings.Split(strings.ReplaceAll(text, "$ORIGIN", filepath.Dir(name)), ":")...)
		}
	}
	return dirs
}

// libraryDirs are the directories in which the loader looks.
func (c copier) libraryDirs() []string {
	var dirs []string
	configurations, _ := filepath.Glob(filepath.Join(c.root, "/etc/ld.so.conf.d/*.conf")) // The pattern is right.
	for _, configuration := range append(configurations, filepath.Join(c.root, "/etc/ld.so.conf")) {
		file, err := os.Open(configuration)
		if err != nil {
			continue // Images need not have one.
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
		_ = file.Close()
	}
	return append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
}
