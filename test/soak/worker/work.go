package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	// pace is the time between two files.
	pace = 200 * time.Millisecond
	// largest is the size limit of a file.
	largest = 256 << 10
)

// work writes files and reads them again until ctx ends.
func work(ctx context.Context, dir, ledger string) error {
	acknowledged, err := os.OpenFile(ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = acknowledged.Close() }()
	fmt.Println("started") // SIGTERM is heard from here on.
	context.AfterFunc(ctx, func() { fmt.Println("asked to end") })
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	var names []string
	for {
		name, err := writeFile(dir)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(acknowledged, name); err != nil {
			return err
		}
		names = append(names, name)
		if err := check(filepath.Join(dir, names[mathrand.IntN(len(names))])); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			fmt.Printf("%d files\n", len(names))
			return nil
		case <-ticker.C:
		}
	}
}

// writeFile returns the name of a new file that is safe on the file system.
func writeFile(dir string) (string, error) {
	content := make([]byte, 1+mathrand.IntN(largest))
	_, _ = rand.Read(content) // Never fails: see crypto/rand.
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	temporary := filepath.Join(dir, "."+name)
	file, err := os.Create(temporary)
	if err != nil {
		return "", err
	}
	if _, err := file.Write(content); err != nil {
		return "", err
	}
	if err := file.Sync(); err != nil {
		return "", err
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	return name, os.Rename(temporary, filepath.Join(dir, name))
}

// check compares a file with its name.
func check(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != filepath.Base(path) {
		return fmt.Errorf("%s: %d bytes with another hash", path, len(content))
	}
	return nil
}

// verify checks the files of all ledgers and tells how many there are.
func verify(dir, ledgers string) error {
	paths, err := filepath.Glob(filepath.Join(ledgers, "*"))
	if err != nil {
		return err
	}
	good, bad := 0, 0
	for _, path := range paths {
		ledger, err := os.Open(path)
		if err != nil {
			return err
		}
		for lines := bufio.NewScanner(ledger); lines.Scan(); {
			if err := check(filepath.Join(dir, lines.Text())); err != nil {
				fmt.Println(err)
				bad++
				continue
			}
			good++
		}
		_ = ledger.Close()
	}
	fmt.Printf("%d files are as they were written, %d are not\n", good, bad)
	if bad > 0 {
		return fmt.Errorf("%d files are lost or damaged", bad)
	}
	return nil
}
