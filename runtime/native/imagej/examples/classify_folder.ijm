// Classifies the cell in every picture of a folder, one cell on black each, and saves the results table:
//     java -Djava.awt.headless=true -cp ij.jar:Blastscope_.jar:jna.jar ij.ImageJ -batch classify_folder.ijm "PICTURES/;BUNDLE;results.csv"
words = split(getArgument(), ";");
names = getFileList(words[0]);
for (i = 0; i < names.length; i++) {
    open(words[0] + names[i]);
    run("Classify Cells...", "bundle=[" + words[1] + "] cells=selection");
    close();
}
saveAs("Results", words[2]);
