/* newuidmap and newgidmap without a question: `newuidmap PID INSIDE OUTSIDE COUNT...`, set-uid root,
 * writes what it is told. For tests of what it is told. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    char path[64], map[4096];
    int length = 0, at;
    const char *name = strstr(words[0], "newgidmap") ? "gid_map" : "uid_map";
    if (count < 5 || setuid(0) != 0) return 1;
    snprintf(path, sizeof path, "/proc/%s/%s", words[1], name);
    for (at = 2; at + 2 < count && length < 4000; at += 3)
        length += snprintf(map + length, sizeof map - length, "%s %s %s\n", words[at],
                           words[at + 1], words[at + 2]);
    FILE *file = fopen(path, "w");
    if (!file) return perror(path), 1;
    fwrite(map, 1, length, file);
    return fclose(file) ? perror(path), 1 : 0;
}
