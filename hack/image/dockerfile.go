package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// stagingRoot is where the build stage of a Dockerfile collects the image.
const stagingRoot = "/rootfs"

// dockerfile is what a service's Dockerfile says about the image. It is the one
// description of the image: Docker follows it, and so does this program, which
// knows a small part of the language and refuses the rest.
//
// The build stage collects the file system below /rootfs:
//
//	RUN install -d -m MODE DIRECTORY
//	RUN install -D -m MODE FILE-OF-THE-TREE TARGET
//	RUN go build FLAGS... -o TARGET PACKAGE
//
// and the last stage copies it as a whole onto scratch, and adds USER,
// ENTRYPOINT and LABEL. Stages between are left to Docker: they make what the
// go build needs.
type dockerfile struct {
	// installs are the commands of the build stage, in order.
	installs []install
	user     string
	// entrypoint is the program with its arguments.
	entrypoint []string
	labels     map[string]string
	// arguments are the build arguments with their values.
	arguments map[string]string
}

// install is one command of the build stage.
type install struct {
	// target is the path in the image.
	target string
	mode   int64
	// source is a file of the tree, for a copied file.
	source string
	// goPackage is the package of a compiled program.
	goPackage string
}

// readDockerfile reads a Dockerfile. The arguments replace the defaults of ARG.
func readDockerfile(file string, arguments map[string]string) (dockerfile, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return dockerfile{}, err
	}
	return parseDockerfile(string(text), arguments)
}

// parseDockerfile names the line of an instruction that it does not know.
func parseDockerfile(text string, arguments map[string]string) (dockerfile, error) {
	p := &parser{
		given: arguments,
		file:  dockerfile{labels: map[string]string{}, arguments: map[string]string{}},
	}
	for _, line := range logicalLines(text) {
		if err := p.instruction(line.text); err != nil {
			return dockerfile{}, fmt.Errorf("line %d: %w", line.number, err)
		}
	}
	if !p.copied {
		return dockerfile{}, errors.New("the last stage does not copy " + stagingRoot + "/ to /")
	}
	return p.file, nil
}

// logicalLine is an instruction, with continuation lines joined.
type logicalLine struct {
	text   string
	number int
}

func logicalLines(text string) []logicalLine {
	var (
		lines   []logicalLine
		pending string
		first   int
	)
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || (line == "" && pending == "") {
			continue
		}
		if pending == "" {
			first = i + 1
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			pending += rest
			continue
		}
		lines = append(lines, logicalLine{text: pending + line, number: first})
		pending = ""
	}
	return lines
}

// parser follows the instructions of a Dockerfile.
type parser struct {
	given map[string]string
	file  dockerfile
	// stage is the name of the stage at hand; the last one has none.
	stage string
	// copied: the last stage holds the file system.
	copied bool
}

func (p *parser) instruction(line string) error {
	keyword, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch keyword {
	case "FROM":
		return p.from(rest)
	case "ARG":
		p.argument(rest)
		return nil
	}
	switch p.stage {
	case "build":
		return p.buildStage(keyword, rest)
	case "":
		return p.lastStage(keyword, rest)
	}
	return nil
}

func (p *parser) from(rest string) error {
	words := strings.Fields(rest)
	p.stage = ""
	if len(words) >= 3 && words[len(words)-2] == "AS" {
		p.stage = words[len(words)-1]
		return nil
	}
	if rest != "scratch" {
		return fmt.Errorf("FROM %s: the last stage is built from scratch", rest)
	}
	return nil
}

// argument sets a build argument. One that is declared again in a stage keeps
// its value.
func (p *parser) argument(rest string) {
	key, value, hasValue := strings.Cut(rest, "=")
	if given, ok := p.given[key]; ok {
		p.file.arguments[key] = given
		return
	}
	if hasValue {
		p.file.arguments[key] = value
	}
}

func (p *parser) buildStage(keyword, rest string) error {
	if keyword != "RUN" {
		return nil
	}
	words, err := splitWords(p.expand(rest))
	if err != nil {
		return err
	}
	made, err := parseInstall(words)
	if err != nil {
		return fmt.Errorf("RUN %s: %w", rest, err)
	}
	p.file.installs = append(p.file.installs, made)
	return nil
}

func (p *parser) lastStage(keyword, rest string) error {
	switch keyword {
	case "COPY":
		if rest != "--from=build "+stagingRoot+"/ /" {
			return fmt.Errorf("COPY %s: only --from=build %s/ / is known", rest, stagingRoot)
		}
		p.copied = true
	case "USER":
		p.file.user = rest
	case "ENTRYPOINT":
		if err := json.Unmarshal([]byte(rest), &p.file.entrypoint); err != nil {
			return fmt.Errorf("ENTRYPOINT %s: want a JSON list: %w", rest, err)
		}
	case "LABEL":
		words, err := splitWords(p.expand(rest))
		if err != nil {
			return err
		}
		for _, word := range words {
			key, value, _ := strings.Cut(word, "=")
			p.file.labels[key] = value
		}
	default:
		return fmt.Errorf("the instruction %s is not known here", keyword)
	}
	return nil
}

// expand replaces ${NAME} by the build argument.
func (p *parser) expand(text string) string {
	return os.Expand(text, func(key string) string { return p.file.arguments[key] })
}

// splitWords splits at spaces outside double quotes, and drops the quotes.
func splitWords(text string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quoted bool
	)
	flush := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			flush()
		default:
			word.WriteRune(r)
		}
	}
	if quoted {
		return nil, fmt.Errorf("%s: a quote is not closed", text)
	}
	flush()
	return words, nil
}

// parseInstall reads a command of the build stage.
func parseInstall(words []string) (install, error) {
	switch {
	case len(words) == 5 && slices.Equal(words[:3], []string{"install", "-d", "-m"}):
		return newInstall(words[4], words[3], install{})
	case len(words) == 6 && slices.Equal(words[:3], []string{"install", "-D", "-m"}):
		return newInstall(words[5], words[3], install{source: words[4]})
	case len(words) > 4 && slices.Equal(words[:2], []string{"go", "build"}) && words[len(words)-3] == "-o":
		return newInstall(words[len(words)-2], "0755", install{goPackage: words[len(words)-1]})
	}
	return install{}, errors.New("the command is not known here")
}

func newInstall(target, mode string, made install) (install, error) {
	inside, ok := strings.CutPrefix(target, stagingRoot+"/")
	if !ok {
		return install{}, fmt.Errorf("%s is not below %s", target, stagingRoot)
	}
	bits, err := strconv.ParseInt(mode, 8, 32)
	if err != nil {
		return install{}, fmt.Errorf("parse the mode %q: %w", mode, err)
	}
	made.target = "/" + inside
	made.mode = bits
	return made, nil
}

// image fills the description in: files come from the tree at root, programs
// from the given binaries, by base name. Every program must be given.
func (f dockerfile) image(root string, binaries []string) (imageSpec, error) {
	byName := map[string]string{}
	for _, binary := range binaries {
		byName[filepath.Base(binary)] = binary
	}
	files := tree{}
	for _, made := range f.installs {
		switch {
		case made.goPackage != "":
			name := path.Base(made.target)
			binary, ok := byName[name]
			if !ok {
				return imageSpec{}, fmt.Errorf("the program %s is not among --binary", name)
			}
			delete(byName, name)
			files.file(made.target, binary, made.mode)
		case made.source != "":
			files.file(made.target, filepath.Join(root, made.source), made.mode)
		default:
			files.dir(made.target, made.mode)
		}
	}
	if len(byName) > 0 {
		return imageSpec{}, fmt.Errorf("the image has no program %s",
			strings.Join(slices.Sorted(maps.Keys(byName)), ", "))
	}
	return imageSpec{
		files:      files,
		user:       f.user,
		entrypoint: f.entrypoint,
		labels:     f.labels,
		level:      releaseLevel,
	}, nil
}
