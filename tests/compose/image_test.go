// SPDX-License-Identifier: Apache-2.0

//go:build compose

package compose

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// image is a file system of what is installed on this machine.
type image struct {
	tag        string
	entrypoint string   // a script of the folder images
	programs   []string // looked up on PATH, with the libraries that they need
	trees      []string // copied whole; "from=to" puts one elsewhere
	scripts    []string // of the folder images, on the image's PATH
	path       string   // a folder beside /usr/bin where programs are
	command    string   // what the image runs if nothing else is said
}

// shell is what the scripts need.
var shell = []string{"sh", "cat", "chmod", "chown", "mkdir", "rm", "echo", "setpriv", "sed", "grep", "dirname",
	"basename", "id", "hostname", "tr", "uname", "sleep", "touch", "ls", "env", "expr", "cut", "test"}

const mysqlTree = "/var/cache/concord-testdb/mysql"

// databases are the images that docker-compose.yml asks for.
func databases() ([]image, error) {
	postgres, err := filepath.Glob("/usr/lib/postgresql/*")
	if err != nil || len(postgres) == 0 {
		return nil, errors.New("no PostgreSQL in /usr/lib/postgresql: run make databases")
	}
	plugins, err := filepath.Glob("/usr/lib/*-linux-gnu/libmariadb3/plugin") // by which mysqladmin says its password
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(postgres[0], "bin")
	return []image{
		{tag: "postgres:17", entrypoint: "postgres.sh", command: "postgres", path: bin,
			programs: []string{filepath.Join(bin, "postgres"), filepath.Join(bin, "initdb"), filepath.Join(bin,
				"pg_ctl"), filepath.Join(bin, "psql"), filepath.Join(bin, "pg_isready")},
			trees: []string{postgres[0], filepath.Join("/usr/share/postgresql", filepath.Base(postgres[0])),
				"/usr/share/zoneinfo"}},
		{tag: "mariadb:11.8", entrypoint: "mariadb.sh", command: "mariadbd", scripts: []string{"healthcheck.sh"},
			programs: []string{"mariadbd", "mariadb-install-db", "mariadb-admin", "my_print_defaults", "resolveip"},
			trees:    []string{"/usr/share/mysql"}},
		{tag: "mysql:8.4", entrypoint: "mysql.sh", command: "mysqld", programs: []string{"mysqladmin"},
			trees: append(plugins, mysqlTree+"=/opt/mysql")},
	}, nil
}

// concordOf is the image that the file builds, of a binary that is there already.
func concordOf(binary string) image {
	return image{tag: "concord:dev", trees: []string{binary + "=/concord"}}
}

// write writes the image as a tar.
func (i image) write(w io.Writer) error {
	t := &tree{w: tar.NewWriter(w), have: map[string]bool{}}
	t.dir("tmp", 0o1777, 0)
	for _, dir := range []string{"run", "etc", "var/lib", "docker-entrypoint-initdb.d", "usr/bin", "usr/sbin",
		"usr/lib", "usr/lib64"} {
		t.dir(dir, 0o755, 0)
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		t.link(link, "usr/"+link)
	}
	t.link("var/run", "/run")
	t.file("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\ndatabase:x:999:999::/:/bin/sh\n")
	t.file("etc/group", 0o644, "root:x:0:\ndatabase:x:999:\n")
	if i.entrypoint == "" { // concord's own, as the Dockerfile has it
		t.dir("var/lib/concord", 0o755, 65532)
		t.dir("etc/concord", 0o755, 0)
		t.dir("etc/concord/certs", 0o755, 65532)
	} else {
		t.dir("run/mysqld", 0o755, 999)
		t.dir("run/postgresql", 0o755, 999)
		for _, name := range append(slices.Clone(i.scripts), i.entrypoint) {
			t.copy(filepath.Join("images", name), "/usr/bin/"+name)
		}
		for _, name := range append(slices.Clone(shell), i.programs...) {
			t.program(name)
		}
	}
	for _, spec := range i.trees {
		from, to, _ := strings.Cut(spec, "=")
		if to == "" {
			to = from
		}
		t.copyAll(from, to)
	}
	return errors.Join(t.err, t.w.Close())
}

// changes are what an image says beside its files.
func (i image) changes() []string {
	if i.entrypoint == "" {
		return []string{"USER 65532:65532", `ENTRYPOINT ["/concord"]`,
			`CMD ["serve", "--config", "/etc/concord/concord.yaml"]`}
	}
	return []string{"ENV PATH=/usr/bin:/usr/sbin:" + i.path, fmt.Sprintf(`ENTRYPOINT ["/usr/bin/%s"]`, i.entrypoint),
		fmt.Sprintf(`CMD [%q]`, i.command)}
}

// tree is a file system in the making. The first error stays.
type tree struct {
	w    *tar.Writer
	have map[string]bool
	err  error
}

func (t *tree) add(h *tar.Header, content io.Reader) {
	h.Name = strings.TrimPrefix(h.Name, "/")
	if t.err != nil || t.have[h.Name] {
		return
	}
	t.have[h.Name] = true
	if t.err = t.w.WriteHeader(h); t.err == nil && content != nil {
		_, t.err = io.Copy(t.w, content)
	}
}

func (t *tree) dir(name string, mode int64, owner int) {
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (t *tree) link(name, to string) {
	t.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (t *tree) file(name string, mode int64, content string) {
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))},
		strings.NewReader(content))
}

// copy takes one file, whatever links lead to it.
func (t *tree) copy(from, to string) {
	if t.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		t.err = err
		return
	}
	defer f.Close() //nolint:errcheck // it was read
	info, err := f.Stat()
	if err != nil {
		t.err = err
		return
	}
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: int64(info.Mode().Perm()) | 0o444, Size: info.Size()}, f)
}

// copyAll takes a file or a folder.
func (t *tree) copyAll(from, to string) {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || t.err != nil {
			return errors.Join(err, t.err)
		}
		name := to + strings.TrimPrefix(path, from)
		switch {
		case d.IsDir():
			t.dir(name, 0o755, 0)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			t.link(name, link)
		case d.Type().IsRegular():
			t.copy(path, name)
		}
		return t.err
	})
	if t.err == nil {
		t.err = err
	}
}

// program takes a program and the libraries that it needs.
func (t *tree) program(name string) {
	if t.err != nil {
		return
	}
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		t.err = err
		return
	}
	to := path
	if dir := filepath.Dir(path); dir == "/bin" || dir == "/sbin" { // links to those in /usr
		to = "/usr" + path
	}
	t.copy(path, to)
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return // a script
	}
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			if !strings.HasPrefix(word, "/usr/") {
				t.copy(word, "/usr"+word)
			} else {
				t.copy(word, word)
			}
		}
	}
}
